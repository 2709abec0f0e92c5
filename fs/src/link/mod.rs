//! QUIC connections between two named nodes: frames in and out, whatever they mean.
//!
//! [`quic`] has the endpoint and its connections, [`tls`] who may be at the other end, [`stream`] the two
//! directions of a connection, [`error`] why there is none. How many connections there are at a time, and when
//! to open the next, is the caller's matter.

pub mod error;
pub mod quic;
pub mod stream;
pub mod tls;

#[cfg(test)]
mod tests;

pub use crate::wire::frame::Purpose;
pub use error::LinkError;
pub use quic::{Closer, Connection, Endpoint, Incoming, Listener};
pub use stream::{Receiver, Sender};
