//! The difference between two definitions, for a person to read.
