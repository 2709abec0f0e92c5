//! Why there is no connection, or none any more.

use super::tls::Refusal;
use crate::wire::frame::WireError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What went wrong with an endpoint or one of its connections.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A certificate or key cannot be read.
    #[error("cannot read {what} from {path}: {reason}")]
    Pem {
        /// Which of the three.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Others may read the private key.
    #[error(
        "the private key {path} has mode {mode:03o}, so others may read it: chmod 600 it, and make a new one if they did"
    )]
    KeyExposed {
        /// Its file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The peer would refuse this node's own certificate.
    #[error(
        "this node's certificate {path} is of no use for node {node}: {refusal}; write a new one with 'skctl cluster init'"
    )]
    OwnCertificate {
        /// Its file.
        path: PathBuf,
        /// This node.
        node: String,
        /// Which rule it breaks.
        refusal: Refusal,
    },
    /// A name that no certificate can carry.
    #[error(
        "{0:?} cannot be a node's name: 1 to 63 letters, digits, '-' and '_' in parts joined by '.', the last part not a number"
    )]
    NodeName(String),
    /// The TLS library refuses the certificate and key.
    #[error("cannot use certificate {path} and its key: {source}")]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The UDP socket.
    #[error(
        "cannot listen on UDP {address}: {source}; is another skfs running, or is the address not this node's?"
    )]
    Bind {
        /// The address in the configuration.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Not even a first packet could be sent.
    #[error("cannot connect to {remote}: {reason}")]
    Unusable {
        /// The address.
        remote: SocketAddr,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("{remote} did not complete a connection within {limit:?}")]
    NoAnswer {
        /// The address.
        remote: SocketAddr,
        /// How long it was given.
        limit: Duration,
    },
    /// This node turned the peer away.
    #[error("refused {remote}: {refusal}")]
    Refused {
        /// The peer's address.
        remote: SocketAddr,
        /// Which rule.
        refusal: Refusal,
    },
    /// The peer turned this node away.
    #[error("{remote} refused this node's certificate ({rule}): {detail}")]
    RefusedByPeer {
        /// The peer's address.
        remote: SocketAddr,
        /// The TLS alert in words.
        rule: &'static str,
        /// The peer's words.
        detail: String,
    },
    /// What the peer sent, or what was to be sent, is not a message of this protocol.
    #[error("connection with {remote}: {source}")]
    Wire {
        /// The peer's address.
        remote: SocketAddr,
        /// What.
        source: WireError,
    },
    /// The peer ended the connection on purpose.
    #[error("{remote} closed the connection: {reason}")]
    ClosedByPeer {
        /// The peer's address.
        remote: SocketAddr,
        /// The peer's words.
        reason: String,
    },
    /// This node ended the connection.
    #[error("the connection with {remote} was closed here")]
    ClosedHere {
        /// The peer's address.
        remote: SocketAddr,
    },
    /// The connection broke: nothing came for too long, or the peer forgot it.
    #[error("the connection with {remote} broke: {reason}")]
    Lost {
        /// The peer's address.
        remote: SocketAddr,
        /// How it showed.
        reason: String,
    },
}
