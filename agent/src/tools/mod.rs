//! Tools that need neither records nor an agent: selectors and names, asked one by one or by the
//! line.

mod lines;
mod name;
mod selector;

pub use name::name;
pub use selector::selector;
