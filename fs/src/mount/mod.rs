//! Mounting over a directory, covering it, finding who holds it open, taking it down.
//!
//! Nothing here knows what is mounted. Mounts are told apart by device, type and source in the mount table,
//! never by touching a path below them: a dead or slow mount would answer or block.

pub mod claim;
pub mod cover;
pub mod error;
pub mod fusectl;
pub mod holders;
pub mod leftovers;
pub mod mountinfo;
pub mod over;
pub mod teardown;
