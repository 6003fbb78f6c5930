//! Grants: who may do what, in Cedar. Pure: no I/O, no clock, no transport.
//!
//! [`Grants::compile`] reads policies, types them against the contracts and indexes them by scope; [`Grants::decide`]
//! gives the verdict; [`Sessions`] counts what each principal has done; [`Grants::explain`] says why; [`tables`] holds
//! a set against what it is meant to decide.

mod decide;
mod explain;
mod listing;
mod load;
mod schema;
mod session;
pub mod tables;

#[cfg(test)]
mod tests;

pub use decide::{Asked, Basis, Decision, Held, Permitted, Visibility};
pub use explain::{Considered, Explained, Explanation, PolicyOutcome};
pub use listing::Listed;
pub use load::{ConfigError, Grants, Source};
pub use session::{Past, Sessions};
