//! Whether a schema can be trusted to bound anything.
