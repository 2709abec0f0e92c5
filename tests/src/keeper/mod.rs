//! The lab's keeper: the one process that holds a lab's namespaces, mounts and relay, and starts what runs on
//! its hosts. When it ends, for whatever reason, the kernel removes all of them.

pub mod client;
pub mod events;
pub mod host;
pub mod init;
pub mod network;
pub mod protocol;
pub mod server;
