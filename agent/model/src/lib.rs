//! Calico's resources as Rust types, and the selector language.
//!
//! In: the text or JSON value of one document. Out: a typed [`Resource`] with its selectors parsed, or every error in it with
//! field and reason; records of Kubernetes and of Calico's v1 form as v3 resources ([`convert`]); canonical selectors and their
//! uids; resolved policies ([`resolved`]), the form in which the calculation hands policy to the compiler. Never: I/O, clocks,
//! threads, the kernel.
#![forbid(unsafe_code)]

pub mod convert;
mod decode;
mod documents;
mod kind;
mod listing;
pub mod names;
mod profile;
mod protocol;
pub mod resolved;
mod resource;
mod selector;

pub use decode::{Decoded, Issue, Severity, decode, decode_literal, decode_value};
pub use documents::{Document, SyntaxError, documents, list_items};
pub use kind::API_VERSION;
pub use profile::{namespace_profile, service_account_profile};
pub use protocol::ProtocolError;
pub use resource::*;
pub use selector::*;
