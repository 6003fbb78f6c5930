//! Behaviour through the public doors.

mod ledger_crash;
