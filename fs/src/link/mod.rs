//! QUIC connections between two named nodes: frames in and out, whatever they mean.
//!
//! [`quic`] has the endpoint and its connections, [`tls`] who may be at the other end, [`stream`] the two
//! directions of a connection, [`writer`] the queue before one of them, [`purpose`] what it
//! is for, [`error`] why there is none. [`executor`],
//! [`timers`] and [`socket`] are what quinn runs on. How many connections there are at a time, and when
//! to open the next, is the caller's matter.

pub mod error;
pub mod executor;
pub mod purpose;
pub mod quic;
mod socket;
pub mod stream;
mod timers;
pub mod tls;
pub mod writer;

#[cfg(test)]
mod tests;

pub use error::LinkError;
pub use executor::Executor;
pub use purpose::Purpose;
pub use quic::{Closer, Connection, Endpoint, Incoming, Listener};
pub use stream::{Receiver, Sender};
pub use writer::Outbox;
