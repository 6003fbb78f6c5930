//! A house for tests of the door.
