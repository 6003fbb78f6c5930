//! The command line.

pub mod bank;
