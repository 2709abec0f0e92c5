//! What the peer may lack: the *dirty map* and its durable store.

pub mod extents;
pub mod marks;
pub mod store;
