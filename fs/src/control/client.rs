//! A client of the control socket: one blocking connection, for command-line tools and tests.

use super::command::{Command, FRAME_BYTES_MAX, Message, Refusal, Reply, Request};
use super::event::Event;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a command brought no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("cannot reach skfs at {path}: {source}; is it running?")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection ended or timed out in the middle.
    #[error("the connection to skfs at {path} broke while waiting for an answer: {source}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The other side does not speak this protocol.
    #[error("skfs at {path} answered something this program does not understand: {problem}")]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What.
        problem: String,
    },
    /// `skfs` refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to one `skfs`.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
    next_id: u64,
}

impl Client {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| ClientError::Unreachable {
            path: path.to_owned(),
            source,
        })?;
        Ok(Client {
            path: path.to_owned(),
            stream,
            next_id: 1,
        })
    }

    /// What makes a call that waits fail at once, from another thread.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn interrupter(&self) -> Result<Interrupter, ClientError> {
        match self.stream.try_clone() {
            Ok(stream) => Ok(Interrupter { stream }),
            Err(source) => Err(self.broken(source)),
        }
    }

    /// Gives up waiting for an answer after `limit`; `None` waits for ever (the default).
    pub fn set_timeout(&self, limit: Option<Duration>) -> Result<(), ClientError> {
        self.stream
            .set_read_timeout(limit)
            .map_err(|source| self.broken(source))
    }

    /// Sends `command` and waits for its answer; events that arrive meanwhile are dropped.
    pub fn call(&mut self, command: Command) -> Result<Reply, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let body = serde_json::to_vec(&Request { id, command })
            .map_err(|error| self.protocol(format!("the request cannot be encoded: {error}")))?;
        let length =
            u32::try_from(body.len()).map_err(|_| self.protocol("the request is too long".to_owned()))?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend_from_slice(&body);
        self.stream
            .write_all(&frame)
            .map_err(|source| self.broken(source))?;
        loop {
            match self.receive()? {
                Message::Response { id: answered, result } if answered == id => return Ok(result?),
                Message::Response { .. } | Message::Event(_) => {}
            }
        }
    }

    /// Subscribes and yields each event as it comes, until the connection ends.
    pub fn events(mut self) -> Result<Events, ClientError> {
        self.call(Command::Subscribe)?;
        Ok(Events { client: self })
    }

    fn receive(&mut self) -> Result<Message, ClientError> {
        let mut length = [0; 4];
        self.stream
            .read_exact(&mut length)
            .map_err(|source| self.broken(source))?;
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(self.protocol(format!("a frame of {length} bytes")));
        }
        let mut body = vec![0; length];
        self.stream
            .read_exact(&mut body)
            .map_err(|source| self.broken(source))?;
        serde_json::from_slice(&body).map_err(|error| self.protocol(error.to_string()))
    }

    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Broken {
            path: self.path.clone(),
            source,
        }
    }

    fn protocol(&self, problem: String) -> ClientError {
        ClientError::Protocol {
            path: self.path.clone(),
            problem,
        }
    }
}

/// See [`Client::interrupter`].
#[derive(Debug)]
pub struct Interrupter {
    stream: UnixStream,
}

impl Interrupter {
    /// Ends the connection; `skfs` goes on with what it was told.
    pub fn interrupt(&self) {
        // An end that is there already is what is wanted.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Events as they come; see [`Client::events`].
#[derive(Debug)]
pub struct Events {
    client: Client,
}

impl Iterator for Events {
    type Item = Result<Event, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.client.receive() {
                Ok(Message::Event(event)) => return Some(Ok(event)),
                Ok(Message::Response { .. }) => {}
                Err(ClientError::Broken { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
                    return None;
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
