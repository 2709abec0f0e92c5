//! The one writer of a connection: whoever queues a message does not wait for the network.

use super::executor::{Executor, Place};
use super::stream::{FINISH_TIME_MAX, Sender};
use crate::wire::frame::Message;
use std::fmt;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error};

/// What is queued for one connection, in the order in which it is sent.
///
/// The queue has no bound of its own: a session bounds what it has under way. Once this is dropped, or told to
/// close, the connection ends after what was queued before, or when the peer does not take that in time.
pub struct Outbox<M> {
    queue: mpsc::UnboundedSender<Out<M>>,
    /// Dropped together with this.
    _present: oneshot::Sender<()>,
}

enum Out<M> {
    Message(M),
    Close(String),
}

/// The connection is gone, and the message with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl<M: Message> Outbox<M> {
    /// Begins to send what is queued by `sender`.
    pub(super) fn open(sender: Sender<M>, executor: &Executor) -> Self {
        let (queue, queued) = mpsc::unbounded_channel();
        let (present, gone) = oneshot::channel();
        let timer = executor.clone();
        executor.spawn(Place::Anywhere, async move {
            let mut written = std::pin::pin!(write(sender, queued));
            tokio::select! {
                biased;
                () = &mut written => return,
                // An error: the sender was dropped, which is what is waited for.
                _ = gone => {}
            }
            // What was queued still goes out, if the peer takes it.
            if timer.within(2 * FINISH_TIME_MAX, written).await.is_none() {
                debug!("the peer does not take what was queued for it");
            }
        });
        Outbox {
            queue,
            _present: present,
        }
    }

    /// Queues a message. Does not block.
    ///
    /// # Errors
    /// [`Gone`]: the connection has ended, and nothing is sent on it any more.
    pub fn send(&self, message: M) -> Result<(), Gone> {
        self.queue.send(Out::Message(message)).map_err(|_| Gone)
    }

    /// Closes the connection after what was queued before.
    pub fn close(&self, reason: impl Into<String>) {
        // A writer that is gone has closed it already.
        let _ = self.queue.send(Out::Close(reason.into()));
    }
}

impl<M> fmt::Debug for Outbox<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Outbox").finish_non_exhaustive()
    }
}

/// Sends what is queued, in batches, until told to close or the queue is dropped.
async fn write<M: Message>(mut sender: Sender<M>, mut queue: mpsc::UnboundedReceiver<Out<M>>) {
    let mut close = None;
    let mut batch = Vec::new();
    while close.is_none() {
        let Some(first) = queue.recv().await else { break };
        let mut next = Some(first);
        while let Some(out) = next {
            match out {
                Out::Message(message) => match message.encode() {
                    Ok(encoded) => batch.push(encoded),
                    Err(error) => {
                        // A message over its own limits is a mistake in this program. Without it what follows has
                        // a gap, which the peer refuses or waits for; so the connection ends here.
                        error!(%error, "a message cannot be sent");
                        close = Some(error.to_string());
                        break;
                    }
                },
                Out::Close(reason) => {
                    close = Some(reason);
                    break;
                }
            }
            next = queue.try_recv().ok();
        }
        if let Err(error) = sender.send(batch.drain(..)).await {
            debug!(%error, "cannot send to the peer");
            return;
        }
    }
    if let Err(error) = sender.finish().await {
        debug!(%error, ?close, "the connection did not end in good order");
    }
}
