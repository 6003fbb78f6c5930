//! Grants: who may do what, in Cedar. Pure: no I/O, no clock, no transport.

mod decide;
mod explain;
mod load;
mod schema;
mod session;

pub use decide::{Asked, Basis, Decision, Held, Permitted, Visibility};
pub use explain::Explanation;
pub use load::{ConfigError, Grants, Source};
pub use session::Sessions;
