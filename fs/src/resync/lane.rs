//! One way to the target, from the source's side, a bulk connection in production: requests out, each one's answer in.

use crate::link::{self, LinkError};
use crate::operation::{Errno, FileHandle, InodeId, Name};
use crate::wire::bulk::{Identify, ToSource, ToTarget};
use crate::wire::frame::{Message, WireError};
use bytes::Bytes;
use tokio::runtime::Handle;

/// Why a copy or a verification cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The session ended, or the primary was told otherwise.
    #[error("it is over")]
    Over,
    /// A connection broke.
    #[error("a bulk connection broke: {0}")]
    Link(#[from] LinkError),
    /// The connection was closed in good order, which nobody asked for.
    #[error("the secondary closed a bulk connection")]
    Closed,
    /// The secondary does not serve this copy.
    #[error("the secondary refuses a bulk connection: {0}")]
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
    #[error("a request cannot be sent on a bulk connection: {0}")]
    Unsendable(#[from] WireError),
    /// An answer that does not belong to its request.
    #[error("the secondary answered a request of a bulk connection with something else")]
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

/// What a lane runs on: requests out, answers in, in the same order.
pub trait Carrier: Send {
    /// Sends all of them.
    ///
    /// # Errors
    /// When they cannot be sent.
    fn ask(&mut self, requests: &[ToTarget]) -> Result<(), CopyError>;

    /// Waits for so many answers. The first that failed is an error, and the answers after it are lost.
    ///
    /// # Errors
    /// Whatever keeps an answer from coming.
    fn answers(&mut self, count: usize) -> Result<Vec<ToSource>, CopyError>;

    /// The names that the target gives for a `List` or `Names`.
    ///
    /// # Errors
    /// As [`Carrier::answers`].
    fn listed(&mut self, request: &ToTarget) -> Result<Vec<Name>, CopyError>;
}

/// One way to the target. Used by one thread at a time, which it blocks.
pub struct Lane {
    carrier: Box<dyn Carrier>,
}

/// A bulk connection.
struct Connection {
    sender: link::Sender<ToTarget>,
    receiver: link::Receiver<ToSource>,
    runtime: Handle,
}

impl Lane {
    /// Takes over a connection on which `Opened` was received.
    pub fn new(sender: link::Sender<ToTarget>, receiver: link::Receiver<ToSource>, runtime: Handle) -> Self {
        Lane::over(Box::new(Connection {
            sender,
            receiver,
            runtime,
        }))
    }

    /// Over something else that brings requests to a target.
    pub fn over(carrier: Box<dyn Carrier>) -> Self {
        Lane { carrier }
    }

    /// Sends all `requests`, none of them a `List` or `Names`, then waits for their answers, in the same order.
    ///
    /// # Errors
    /// Also when one of them failed on the target.
    pub fn exchange(&mut self, requests: &[ToTarget]) -> Result<Vec<ToSource>, CopyError> {
        self.ask(requests)?;
        self.answers(requests.len())
    }

    /// Sends all `requests`. What they are answered is to be taken before anything else is asked.
    ///
    /// # Errors
    /// As [`Carrier::ask`].
    pub fn ask(&mut self, requests: &[ToTarget]) -> Result<(), CopyError> {
        self.carrier.ask(requests)
    }

    /// Waits for so many answers.
    ///
    /// # Errors
    /// As [`Carrier::answers`].
    pub fn answers(&mut self, count: usize) -> Result<Vec<ToSource>, CopyError> {
        self.carrier.answers(count)
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    /// As [`Carrier::answers`].
    pub fn answer(&mut self) -> Result<ToSource, CopyError> {
        self.answers(1)?.pop().ok_or(CopyError::Confused)
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
        self.listed(&ToTarget::List { directory, path })
    }

    /// As [`Carrier::listed`].
    ///
    /// # Errors
    /// As [`Lane::exchange`].
    pub fn listed(&mut self, request: &ToTarget) -> Result<Vec<Name>, CopyError> {
        self.carrier.listed(request)
    }
}

impl Carrier for Connection {
    fn ask(&mut self, requests: &[ToTarget]) -> Result<(), CopyError> {
        let encoded: Vec<_> = requests.iter().map(Message::encode).collect::<Result<_, _>>()?;
        let sender = &mut self.sender;
        Ok(self.runtime.block_on(async { sender.send(encoded).await })?)
    }

    fn answers(&mut self, count: usize) -> Result<Vec<ToSource>, CopyError> {
        let receiver = &mut self.receiver;
        self.runtime.block_on(async {
            let mut answers = Vec::with_capacity(count);
            for _ in 0..count {
                answers.push(next(receiver).await?);
            }
            Ok(answers)
        })
    }

    fn listed(&mut self, request: &ToTarget) -> Result<Vec<Name>, CopyError> {
        let request = request.encode()?;
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
