//! The streams of a connection for bulk data: bytes one way, as many at a time as the two ends agree on.
//!
//! A connection made with [`Purpose::Bulk`] is a connection like any other, with its one stream of messages each
//! way, and these besides. Every stream waits while its reader is slower than its writer.

use super::error::LinkError;
use super::quic::broken;
use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use std::net::SocketAddr;

/// Most streams that the peer may have open at a time, and most bytes of one that are taken at once.
pub(super) const STREAMS_MAX: u32 = 64;
const READ_BYTES_MAX: usize = 256 << 10;

/// What a connection is for. Both ends know from the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A session.
    Session,
    /// Bulk data.
    Bulk,
}

impl Purpose {
    /// Its name in the handshake (ALPN), so that nothing but another `skfs` gets through it.
    pub(super) fn protocol(self) -> &'static [u8] {
        match self {
            Purpose::Session => b"skfs",
            Purpose::Bulk => b"skfs-bulk",
        }
    }

    pub(super) fn of_protocol(protocol: &[u8]) -> Option<Self> {
        [Purpose::Session, Purpose::Bulk]
            .into_iter()
            .find(|purpose| purpose.protocol() == protocol)
    }
}

/// Opens and takes streams. Clones share the connection, and keep it open.
#[derive(Debug, Clone)]
pub struct Streams {
    connection: quinn::Connection,
    remote: SocketAddr,
}

impl Streams {
    pub(super) fn new(connection: quinn::Connection, remote: SocketAddr) -> Self {
        Streams { connection, remote }
    }

    /// Opens a stream to the peer; waits while [`STREAMS_MAX`] are open. The peer hears of it with the first bytes.
    pub async fn open(&self) -> Result<StreamOut, LinkError> {
        match self.connection.open_uni().await {
            Ok(inner) => Ok(StreamOut {
                inner,
                remote: self.remote,
            }),
            Err(error) => Err(broken(self.remote, None, error)),
        }
    }

    /// Waits for a stream that the peer opens. Cancel safe.
    pub async fn accept(&self) -> Result<StreamIn, LinkError> {
        match self.connection.accept_uni().await {
            Ok(inner) => Ok(StreamIn {
                inner,
                remote: self.remote,
            }),
            Err(error) => Err(broken(self.remote, None, error)),
        }
    }
}

/// The writing end of a stream. Dropped before [`StreamOut::finish`], what was written still arrives and ends it.
#[derive(Debug)]
pub struct StreamOut {
    inner: SendStream,
    remote: SocketAddr,
}

impl StreamOut {
    /// Queues `bytes` without copying them; waits while the peer reads slower than this. Not cancel safe.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        self.inner.write_chunk(bytes).await.map_err(|error| match error {
            WriteError::ConnectionLost(error) => broken(self.remote, None, error),
            other => LinkError::Lost {
                remote: self.remote,
                reason: other.to_string(),
            },
        })
    }

    /// Ends the stream and waits until the peer has all of it, or the connection ends.
    pub async fn finish(mut self) -> Result<(), LinkError> {
        // Finished already is what is wanted.
        self.inner.finish().ok();
        match self.inner.stopped().await {
            Ok(None) => Ok(()),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(broken(self.remote, None, error)),
            Ok(Some(_)) | Err(quinn::StoppedError::ZeroRttRejected) => Err(LinkError::Lost {
                remote: self.remote,
                reason: "the peer does not read it any more".into(),
            }),
        }
    }
}

/// The reading end of a stream. Dropped, the writer is told to stop.
#[derive(Debug)]
pub struct StreamIn {
    inner: RecvStream,
    remote: SocketAddr,
}

impl StreamIn {
    /// The next bytes, as they came in a packet; `None` at the end. Cancel safe.
    pub async fn read(&mut self) -> Result<Option<Bytes>, LinkError> {
        match self.inner.read_chunk(READ_BYTES_MAX, true).await {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(ReadError::ConnectionLost(error)) => Err(broken(self.remote, None, error)),
            Err(error) => Err(LinkError::Lost {
                remote: self.remote,
                reason: error.to_string(),
            }),
        }
    }
}
