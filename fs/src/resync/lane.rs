//! One bulk connection, from the source's side: requests out, each one's answer in.

use crate::link::{self, LinkError};
use crate::operation::{Errno, FileHandle, InodeId, Name};
use crate::wire::bulk::{Identify, ToSource, ToTarget};
use crate::wire::frame::{Message, WireError};
use bytes::Bytes;
use tokio::runtime::Handle;

/// Why a copy cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The session ended, or the primary was told otherwise.
    #[error("the copy is over")]
    Over,
    /// A connection broke.
    #[error("a connection of the copy broke: {0}")]
    Link(#[from] LinkError),
    /// The connection was closed in good order, which nobody asked for.
    #[error("the secondary closed a connection of the copy")]
    Closed,
    /// The secondary does not serve this copy.
    #[error("the secondary refuses the copy: {0}")]
    Refused(String),
    /// A request failed there.
    #[error("on the secondary: {reason}")]
    Target {
        /// The error.
        errno: Errno,
        /// What failed, on what, why.
        reason: String,
    },
    /// This node's files cannot be read.
    #[error("cannot {attempt} {inode}: {errno}")]
    Read {
        /// What.
        attempt: &'static str,
        /// Of what.
        inode: InodeId,
        /// Why.
        errno: Errno,
    },
    /// What differs cannot be told apart for certain: everything must be compared.
    #[error("what the dirty map names is not enough: {0}")]
    NeedsWhole(String),
    /// A request is over its own limits.
    #[error("a request of the copy cannot be sent: {0}")]
    Unsendable(#[from] WireError),
    /// An answer that does not belong to its request.
    #[error("the secondary answered a request of the copy with something else")]
    Confused,
    /// Names that cannot be brought over, however often it is tried.
    #[error("{count} names cannot be brought over, {name} in {directory} among them")]
    Stuck {
        /// How many.
        count: usize,
        /// In which directory one is.
        directory: InodeId,
        /// And its name.
        name: Name,
    },
}

/// One connection. Used by one thread at a time, which it blocks.
#[derive(Debug)]
pub struct Lane {
    sender: link::Sender<ToTarget>,
    receiver: link::Receiver<ToSource>,
    runtime: Handle,
}

impl Lane {
    /// Takes over a connection on which `Opened` was received.
    pub fn new(sender: link::Sender<ToTarget>, receiver: link::Receiver<ToSource>, runtime: Handle) -> Self {
        Lane {
            sender,
            receiver,
            runtime,
        }
    }

    /// Sends all `requests`, none of them a `List`, then waits for their answers, in the same order.
    ///
    /// # Errors
    /// Also when one of them failed on the target.
    pub fn exchange(&mut self, requests: &[ToTarget]) -> Result<Vec<ToSource>, CopyError> {
        let encoded: Vec<_> = requests.iter().map(Message::encode).collect::<Result<_, _>>()?;
        let (sender, receiver) = (&mut self.sender, &mut self.receiver);
        self.runtime.block_on(async {
            sender.send(encoded).await?;
            let mut answers = Vec::with_capacity(requests.len());
            for _ in requests {
                answers.push(next(receiver).await?);
            }
            Ok(answers)
        })
    }

    /// As [`Lane::exchange`], for requests that are answered by [`ToSource::Written`].
    pub fn write(&mut self, requests: &[ToTarget]) -> Result<(), CopyError> {
        let answers = self.exchange(requests)?;
        if answers.iter().all(|answer| *answer == ToSource::Written) {
            return Ok(());
        }
        Err(CopyError::Confused)
    }

    /// Tells the target of inodes; for each, its handle there if it was found.
    pub fn identify(&mut self, nodes: Vec<Identify>) -> Result<Vec<Option<FileHandle>>, CopyError> {
        let asked = nodes.len();
        let mut answers = self.exchange(&[ToTarget::Identify { nodes }])?;
        match answers.pop() {
            Some(ToSource::Identified { handles }) if handles.len() == asked => Ok(handles),
            Some(_) | None => Err(CopyError::Confused),
        }
    }

    /// The names that the target has in a directory.
    pub fn list(&mut self, directory: InodeId, path: Bytes) -> Result<Vec<Name>, CopyError> {
        let request = ToTarget::List { directory, path }.encode()?;
        let (sender, receiver) = (&mut self.sender, &mut self.receiver);
        self.runtime.block_on(async {
            sender.send([request]).await?;
            let mut all = Vec::new();
            loop {
                match next(receiver).await? {
                    ToSource::Listed { names, more } => {
                        all.extend(names);
                        if !more {
                            return Ok(all);
                        }
                    }
                    _ => return Err(CopyError::Confused),
                }
            }
        })
    }
}

async fn next(receiver: &mut link::Receiver<ToSource>) -> Result<ToSource, CopyError> {
    match receiver.next().await? {
        Some(ToSource::Failed { errno, reason }) => Err(CopyError::Target { errno, reason }),
        Some(ToSource::Refused { reason }) => Err(CopyError::Refused(reason)),
        Some(answer) => Ok(answer),
        None => Err(CopyError::Closed),
    }
}
