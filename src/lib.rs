//! Countersign: an MCP firewall and mediator.
//!
//! One `tools/call`, from the wire to the tool server and back:
//!
//! ```text
//! Received -> Authenticated -> Validated -+-> Permitted -> Recorded -> Forwarded -> Inspected -> Settled -> Reply
//!                                         +-> Held (parked; countersigned, decided again, spent once: joins Permitted)
//!                                         `-> Refused --------------------------------------------------> Reply
//! ```
//!
//! Each stage is a type that only the stage before it can become, and only [`ledger::Recorded`] can be
//! forwarded. `Settled` is an entry on disk, and the [`ledger::Reply`] is what writing it gives.
//!
//! A recorded call is forwarded, and what came back is inspected and settled (the twin of the refusals below):
//! ```
//! # use countersign::{ledger::{Ledger, Recorded, Reply}, upstream::Upstreams};
//! async fn forward(upstreams: &Upstreams, ledger: &Ledger, call: Recorded) -> Reply {
//!     let tool = call.call().call().tool().clone();
//!     ledger.settle(tool.inspect(upstreams.forward(call).await)).await
//! }
//! ```
//! One that has not been decided cannot be:
//! ```compile_fail,E0308
//! # use countersign::{call::Validated, upstream::Upstreams};
//! async fn forward(upstreams: &Upstreams, call: Validated) { upstreams.forward(call).await; }
//! ```
//! Nor one permitted but not recorded:
//! ```compile_fail,E0308
//! # use countersign::{grant::Permitted, upstream::Upstreams};
//! async fn forward(upstreams: &Upstreams, call: Permitted) { upstreams.forward(call).await; }
//! ```
//! Nor one that waits for a countersignature:
//! ```compile_fail,E0308
//! # use countersign::{grant::Held, ledger::Ledger};
//! async fn record(ledger: &Ledger, call: Held) { let _ = ledger.intend(call).await; }
//! ```
//! The proof that a call was recorded cannot be made elsewhere:
//! ```compile_fail,E0451
//! # use countersign::{grant::Permitted, ledger::Recorded};
//! fn forge(call: Permitted) -> Recorded { Recorded { call, seq: 7 } }
//! ```
//! Nor the proof that it was permitted:
//! ```compile_fail,E0451
//! # use countersign::{call::Validated, grant::{Basis, Permitted}};
//! fn forge(call: Validated) -> Permitted { Permitted { call, basis: Basis::default(), countersigned: None } }
//! ```
//! Nor the proof that people countersigned it:
//! ```compile_fail,E0451
//! # use countersign::hold::{Hold, Warrant};
//! fn forge(hold: std::sync::Arc<Hold>) -> Warrant { Warrant { hold } }
//! ```
//! ```compile_fail,E0624
//! # use countersign::{clock::Timestamp, hold::{Book, HoldId, Warrant}};
//! fn forge(book: &Book, id: &HoldId, now: Timestamp) -> Option<Warrant> { book.warrant(id, now) }
//! ```
//! Nor that its hold is durable:
//! ```compile_fail,E0451
//! # use countersign::{call::Validated, hold::Hold, ledger::Parked};
//! fn forge(call: Validated, hold: std::sync::Arc<Hold>) -> Parked { Parked { call, hold } }
//! ```
//! Nor the proof of who is calling:
//! ```compile_fail,E0624
//! # use countersign::call::{Identified, Principal};
//! fn forge(principal: std::sync::Arc<Principal>) -> Identified { Identified::vouch(principal) }
//! ```
//! Nor can a recorded call be spent twice:
//! ```compile_fail,E0382
//! # use countersign::{ledger::Recorded, upstream::Upstreams};
//! async fn twice(upstreams: &Upstreams, call: Recorded) {
//!     upstreams.forward(call).await;
//!     upstreams.forward(call).await;
//! }
//! ```
//! Nor its arguments changed once validated:
//! ```compile_fail,E0616
//! # use countersign::{call::Validated, json::Canonical};
//! fn rewrite(mut call: Validated, other: Canonical) { call.arguments = other; }
//! ```
//! Nor an answer given that was not written down:
//! ```compile_fail,E0451
//! # use countersign::{call::{CallId, Operation}, ledger::{Body, Reply}};
//! fn forge(call: CallId, body: Body) -> Reply { Reply { call, operation: Operation::CallTool, body } }
//! ```
//!
//! The modules stand below in reading order.

// Strict parsing, canonical form, digests.
pub mod json;

// Time and randomness, as parameters.
pub mod clock;

// What a person is shown of what others wrote.
pub mod display;

// Passkeys: what an authenticator says, read and judged.
pub mod passkey;

// A call and its first stages; who calls, and why a call is refused.
pub mod call;

// Tokens that others signed, and their keys.
pub mod jws;

// Proofs that a caller has the key that its token is bound to.
pub mod dpop;

// Text that others carry for us and cannot read.
pub mod seal;

// Files that only we may read: keys.
pub mod secret_file;

// Approvers' one-time codes, sealed keys and sessions.
pub mod approver;

// What each tool was when a person reviewed it, and what is offered now.
pub mod contract;

// Calls that wait for a person, and who may countersign them: one state machine.
pub mod hold;

// Who may do what: the verdict.
pub mod grant;

// What happened: written before the act, provable to a stranger.
pub mod ledger;

// What tool servers are shown, for a time.
pub mod lease;

// The tool servers behind the wall.
pub mod upstream;

// Which addresses this server may connect to by itself.
pub mod reach;

// Whoever can approve is told that there is something to approve.
pub mod notify;

// The road, top to bottom.
pub mod pipeline;

// Logs and metrics.
pub mod observe;

// `countersign.toml`.
pub mod config;

// Where connections come in: who may connect, and TLS.
pub mod listen;

// Identity providers: found, believed, signed in with.
pub mod oidc;

// Workloads that prove who they are.
pub mod workload;

// Credentials in, principals out.
pub mod identity;

// The token endpoint: narrower tokens for tokens, and tokens for keys.
pub mod authority;

// The agents' door: MCP over HTTP and stdio.
pub mod mcp;

// The operators' door: health, metrics, the published log.
pub mod http;

// One house put together from files, and taken apart again.
pub mod server;

// The command line.
pub mod cli;
