//! Behaviour through the public doors.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod accounts;
mod api;
mod approving;
#[expect(dead_code, reason = "the unit tests, which share it, say more with it")]
mod authenticator;
mod authority;
mod bad_input;
mod canaries;
mod cli_commands;
mod cli_quickstart;
mod clients_rmcp;
mod console;
mod console_pages;
mod console_passkeys;
mod crash;
mod crowd;
#[cfg(target_os = "linux")]
mod disk;
mod documents;
mod door_fuzz;
mod holds;
mod holds_rmcp;
mod house;
mod kubernetes;
mod leases;
mod ledger_cli;
mod ledger_crash;
mod mtls;
#[cfg(target_os = "linux")]
mod power;
mod principals;
mod recorder;
mod refusals;
mod registering;
mod road;
mod second_door;
mod secrets;
mod signer;
mod spiffe;
mod stdio;
mod tidy;
mod tls;
mod token_server;
mod wire;
mod workload_api;
