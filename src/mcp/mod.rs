//! The agents' door: MCP over streamable HTTP and over stdio.
//!
//! Two generations of the protocol on one endpoint. 2026-07-28 is stateless: each request says in its headers
//! and its `_meta` what it is. 2025-11-25, 2025-06-18 and 2025-03-26 open a session with `initialize`; ours is
//! sealed into its id, so that none is remembered. A request that says one generation in its header and
//! another in its body is refused.
//!
//! A message is read once into a closed set ([`message`]); what is wrong with it is one of a closed list
//! ([`problem`]); a call goes to the [`Road`] and its reply is rendered for the caller (`render`). Nothing
//! of a caller's envelope is ever forwarded.
//!
//! ```text
//! http  ─┐                          ┌─ listing, route (what the principal may see)
//!        ├─ headers ─ message ─ desk ┼─ Flight (a call under way) ─ render
//! stdio ─┘                          └─ Feed   (a stream that stays open)
//! ```

mod challenge;
mod desk;
mod feed;
mod headers;
pub mod http;
mod linger;
mod listing;
mod meeting;
pub mod message;
mod oauth;
pub mod problem;
mod render;
mod road;
mod route;
mod session;
pub mod stdio;
mod task;
mod tasks;
mod under_way;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use problem::{Problem, VERSIONS};
pub use road::{Edition, Going, Road};
