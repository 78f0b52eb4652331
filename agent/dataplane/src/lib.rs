//! The dataplane: makes the kernel hold what the planner says.
//!
//! In: [`Transaction`](felid_compile::transaction::Transaction)s of the planner, the interfaces of
//! the host ([`LinkState`]), settings. Out: pinned maps, programs and links ([`Kernel`]), routes,
//! neighbours and sysctls ([`net`]); counters, flows and the inventory of what is loaded. Never:
//! policy. What a packet may do is decided by the programs that come from the compiler.
//!
//! ```text
//! planner --Transaction--> Kernel::apply   (write idle bank, flip: enforced)
//!                              | grace period
//!                          Kernel::complete (generations, other bank, freeing)
//!                              '--> Completed --> planner
//! netlink --LinkState----> Kernel::set_links (closed until an endpoint's programs are live,
//!                                             then its stubs)
//! ```
//!
//! All `unsafe` code is in `sys`.

mod dataplane;
mod driver;
mod error;
pub mod kernel;
mod link;
pub mod net;
pub mod object;
pub mod sys;

pub use dataplane::{Dataplane, Options, cleanup};
pub use driver::{
    AddressTranslation, DataplaneDriver, Enforcement, FlowSource, Grace, HostChanges, HostNetwork, Inspection,
    Interference, PacketCounters,
};
pub use error::{DataplaneError, KernelError, RefusedProgram, Result};
pub use kernel::{Config, Kernel};
pub use link::{LinkState, Peer};
