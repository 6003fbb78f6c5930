//! Behaviour through the public doors.

mod bad_input;
mod cli_commands;
mod clients_rmcp;
mod crash;
mod house;
mod recorder;
mod tidy;
mod wire;
