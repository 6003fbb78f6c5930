//! What each principal has done in its task so far.

/// Counters for `context.session` and `@limit`, by principal and task; bounded.
#[derive(Debug, Default)]
pub struct Sessions {}
