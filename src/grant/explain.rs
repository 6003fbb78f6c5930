//! Why a call would be decided as it is.

/// The policies that decided, and why the others did not.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {}
