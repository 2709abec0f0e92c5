//! Commands in, events out: what `skd` (or `skctl fs`) and `skfs` say to each other over a Unix socket.

pub mod archive;
pub mod client;
pub mod command;
pub mod event;
pub mod server;
pub mod status;
pub mod verification;
