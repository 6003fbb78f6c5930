//! Behaviour through the public doors.
