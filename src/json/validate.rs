//! Lets `jsonschema` validate our own tree, so that nothing is parsed twice.

/// Marks [`Value`](super::Value) as a representation that `jsonschema` can walk.
#[derive(Clone, Copy, Debug)]
pub struct Tree;
