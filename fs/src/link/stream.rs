//! The two directions of a connection: frames of one type of message out, of another in.

use super::error::LinkError;
use super::executor::{Executor, Place};
use super::quic::{Close, broken, close};
use super::writer::Outbox;
use crate::wire::frame::{Decoder, Encoded, Message, WireError};
use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::oneshot;

/// Most chunks taken from the stream at a time.
const CHUNKS_MAX: usize = 32;
/// Most messages in one batch, so that a busy peer does not keep its reader from working on them.
const BATCH_MESSAGES_MAX: usize = 256;
/// How long [`Sender::finish`] waits for the peer to have everything.
pub(super) const FINISH_TIME_MAX: Duration = Duration::from_secs(2);

/// Sends messages of type `M`.
#[derive(Debug)]
pub struct Sender<M> {
    connection: quinn::Connection,
    stream: SendStream,
    remote: SocketAddr,
    executor: Executor,
    chunks: Vec<Bytes>,
    messages: PhantomData<fn(M)>,
}

impl<M: Message> Sender<M> {
    pub(super) fn new(
        connection: quinn::Connection,
        stream: SendStream,
        remote: SocketAddr,
        executor: Executor,
    ) -> Self {
        Sender {
            connection,
            stream,
            remote,
            executor,
            chunks: vec![],
            messages: PhantomData,
        }
    }

    /// Queues the frames of a batch, in order and without copying a payload. Waits while the peer reads
    /// slower than this node sends.
    ///
    /// Not cancel safe: a call that is dropped may leave half a frame; then the connection is of no more use.
    pub async fn send(&mut self, batch: impl IntoIterator<Item = Encoded<M>>) -> Result<(), LinkError> {
        self.chunks.clear();
        self.chunks
            .extend(batch.into_iter().flat_map(Encoded::into_chunks));
        let written = self.stream.write_all_chunks(&mut self.chunks).await;
        self.chunks.clear();
        written.map_err(|error| self.broken(error))
    }

    /// A queue of messages in this one's place, for senders that do not wait.
    pub fn into_outbox(self) -> Outbox<M> {
        let executor = self.executor.clone();
        Outbox::open(self, &executor)
    }

    /// Ends this direction and waits until the peer has all of it, at most two seconds: to be called before
    /// the connection is closed when the last message must arrive, since closing drops what is on its way.
    pub async fn finish(mut self) -> Result<(), LinkError> {
        // Finished already is what is wanted; a stop by the peer shows below.
        self.stream.finish().ok();
        match self.executor.within(FINISH_TIME_MAX, self.stream.stopped()).await {
            Some(Ok(None)) => Ok(()),
            Some(Ok(Some(_))) => Err(self.broken(WriteError::Stopped(quinn::VarInt::default()))),
            Some(Err(quinn::StoppedError::ConnectionLost(error))) => Err(broken(self.remote, None, error)),
            Some(Err(error @ quinn::StoppedError::ZeroRttRejected)) => Err(self.lost(error.to_string())),
            None => Err(LinkError::NoAnswer {
                remote: self.remote,
                limit: FINISH_TIME_MAX,
            }),
        }
    }

    fn broken(&self, error: WriteError) -> LinkError {
        match error {
            WriteError::ConnectionLost(error) => broken(self.remote, None, error),
            // The reason for the stop is that of the close which follows it, if that is here already.
            WriteError::Stopped(_) => match self.connection.close_reason() {
                Some(error) => broken(self.remote, None, error),
                None => self.lost("the peer does not read any more".into()),
            },
            other @ (WriteError::ClosedStream | WriteError::ZeroRttRejected) => self.lost(other.to_string()),
        }
    }

    fn lost(&self, reason: String) -> LinkError {
        LinkError::Lost {
            remote: self.remote,
            reason,
        }
    }
}

/// Receives messages of type `M`.
#[derive(Debug)]
pub struct Receiver<M> {
    connection: quinn::Connection,
    stream: RecvStream,
    remote: SocketAddr,
    executor: Executor,
    decoder: Decoder<M>,
    /// Found behind messages that were handed out first.
    failed: Option<WireError>,
    /// The peer has ended its direction.
    ended: bool,
}

impl<M: Message> Receiver<M> {
    pub(super) fn new(
        connection: quinn::Connection,
        stream: RecvStream,
        remote: SocketAddr,
        executor: Executor,
    ) -> Self {
        Receiver {
            connection,
            stream,
            remote,
            executor,
            decoder: Decoder::default(),
            failed: None,
            ended: false,
        }
    }

    /// The next message; `None` once the peer has ended its direction after a whole frame.
    ///
    /// Cancel safe. A frame that is not a message within its limits closes the connection.
    pub async fn next(&mut self) -> Result<Option<M>, LinkError> {
        loop {
            match self.decoded() {
                Ok(None) => {}
                Ok(message) => return Ok(message),
                Err(source) => return Err(self.refuse(source)),
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Waits for one message and adds it to `batch`, with all others that are here already (up to a bound).
    /// False once the peer has ended its direction after a whole frame; nothing was added then.
    ///
    /// Cancel safe. A frame that is not a message within its limits closes the connection, once the messages
    /// before it are handed out.
    pub async fn next_batch(&mut self, batch: &mut Vec<M>) -> Result<bool, LinkError> {
        let mut count = 0;
        loop {
            while count < BATCH_MESSAGES_MAX {
                match self.decoded() {
                    Ok(None) => break,
                    Ok(Some(message)) => batch.push(message),
                    Err(source) if count == 0 => return Err(self.refuse(source)),
                    Err(source) => {
                        self.failed = Some(source);
                        return Ok(true);
                    }
                }
                count += 1;
            }
            if count > 0 {
                return Ok(true);
            }
            if !self.fill().await? {
                return Ok(false);
            }
        }
    }

    /// Hands batches to `take`, on the thread that the packets arrive at, until it says `false` or there are no
    /// more. `take` must not wait for a disk's flush or for a peer: nothing arrives meanwhile.
    ///
    /// Gives whether `take` would have gone on. Dropped, the reading ends.
    pub async fn each_batch(
        mut self,
        mut take: impl FnMut(&mut Vec<M>) -> bool + Send + 'static,
    ) -> Result<bool, LinkError> {
        let (mut ended, end) = oneshot::channel();
        let remote = self.remote;
        let executor = self.executor.clone();
        executor.spawn(Place::Loop, async move {
            let reading = async {
                let mut batch = Vec::new();
                while self.next_batch(&mut batch).await? {
                    if !take(&mut batch) {
                        return Ok(false);
                    }
                    batch.clear();
                }
                Ok(true)
            };
            let result = tokio::select! {
                biased;
                result = reading => result,
                () = ended.closed() => return,
            };
            // Fails when nobody waits for it any more.
            let _ = ended.send(result);
        });
        end.await.unwrap_or(Err(LinkError::Lost {
            remote,
            reason: "its reader ended".into(),
        }))
    }

    fn decoded(&mut self) -> Result<Option<M>, WireError> {
        match self.failed.take() {
            Some(source) => Err(source),
            None => self.decoder.next(),
        }
    }

    /// Waits for more bytes; false at the end of the stream.
    async fn fill(&mut self) -> Result<bool, LinkError> {
        if !self.ended {
            let mut chunks = [const { Bytes::new() }; CHUNKS_MAX];
            match self.stream.read_chunks(&mut chunks).await {
                Ok(Some(count)) => {
                    chunks
                        .into_iter()
                        .take(count)
                        .for_each(|chunk| self.decoder.push(chunk));
                    return Ok(true);
                }
                Ok(None) => self.ended = true,
                Err(ReadError::ConnectionLost(error)) => return Err(broken(self.remote, None, error)),
                Err(error) => {
                    return Err(LinkError::Lost {
                        remote: self.remote,
                        reason: error.to_string(),
                    });
                }
            }
        }
        match self.decoder.finish() {
            Ok(()) => Ok(false),
            Err(source) => Err(self.refuse(source)),
        }
    }

    fn refuse(&self, source: WireError) -> LinkError {
        close(&self.connection, Close::NotUnderstood, &source.to_string());
        LinkError::Wire {
            remote: self.remote,
            source,
        }
    }
}
