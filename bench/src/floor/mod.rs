//! The yardstick for a replicated write: the same FUSE layer as Sidekick's, and behind it the simplest replication
//! there can be. A write goes over a blocking TCP connection of the session thread's own, the peer writes it and
//! answers, then it is written here, then it is answered; everything else is local. No encryption, no order among
//! writes, no way to go on after a failure: what a real system adds is measured against it.
//!
//! The peer keeps a flat directory with one file for each inode that was written.

mod files;
mod mount;
mod nodes;
mod peer;
mod wire;

pub use mount::serve;
pub use peer::serve as serve_peer;
