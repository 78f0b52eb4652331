//! Calico's resources as Rust types, and the selector language.
//!
//! In: the text or JSON value of one document. Out: a typed [`Resource`] with its selectors parsed,
//! or every error in it with field and reason; records of Kubernetes and of Calico's v1 form as v3
//! resources ([`convert`]); canonical selectors and their uids; resolved policies ([`resolved`]),
//! the form in which the calculation hands policy to the compiler. Never: I/O, clocks, threads, the
//! kernel.
#![forbid(unsafe_code)]

pub mod convert;
mod decode;
mod direction;
mod documents;
mod field_match;
mod kind;
mod listing;
pub mod names;
mod policy_scope;
mod profile;
mod protocol;
mod recognition;
pub mod resolved;
mod resource;
mod selector;
mod severity;

pub use decode::{Decoded, Issue, NO_SUCH_SETTING, decode, decode_literal, decode_value, is_setting_of_felix_alone};
pub use direction::Direction;
pub use documents::{Document, SyntaxError, documents, list_items};
pub use field_match::{FieldMatch, IcmpMatch};
pub use kind::API_VERSION;
pub use profile::{namespace_profile, service_account_profile};
pub use protocol::ProtocolError;
pub use recognition::FileKind;
pub use resource::*;
pub use selector::*;
pub use severity::Severity;
