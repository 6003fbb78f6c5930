//! Countersign: an MCP firewall and mediator.
//!
//! One `tools/call`, from the wire to the tool server and back:
//!
//! ```text
//! Received -> Authenticated -> Validated -+-> Permitted -> Recorded -> Forwarded -> Inspected -> Settled -> Reply
//!                                         +-> Held
//!                                         `-> Refused
//! ```
//!
//! Each stage is a type that only the stage before it can become, and only [`ledger::Recorded`] can be
//! forwarded. The modules, in reading order:

pub mod json;

pub mod clock;

pub mod call;

pub mod identity;

pub mod contract;

pub mod grant;

pub mod ledger;

pub mod upstream;

pub mod pipeline;

pub mod observe;

pub mod config;

pub mod mcp;

pub mod http;

pub mod server;

pub mod cli;
