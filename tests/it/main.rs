//! Behaviour through the public doors.

mod cli_commands;
