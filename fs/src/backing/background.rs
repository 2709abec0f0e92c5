//! The thread of a store that does what must not hold up an operation: closing the last descriptor of a big
//! deleted file (the kernel frees its blocks then), and checkpoints when too many written inodes are open.

use super::checkpoint::Durable;
use super::displaced::clear_leftovers;
use super::store::Root;
use rustix::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// Tasks that may wait. At the bound the caller does the work itself, which is slow and right.
const WAITING_MAX: usize = 256;
/// A deleted file with less allocated is closed faster than handed over.
const SMALL_BYTES: u64 = 1 << 20;

pub(super) enum Task {
    Close(Arc<OwnedFd>),
    /// A checkpoint if more than this many written inodes are open.
    Relieve {
        most: usize,
    },
    /// Removes what was excluded and in the way.
    ClearLeftovers,
}

/// Ends, with all its work done, when dropped.
pub(super) struct Background {
    sender: Option<SyncSender<Task>>,
    relieving: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(super) fn start(durable: Arc<Durable>, roots: Arc<Vec<Root>>) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let relieving = Arc::new(AtomicBool::new(false));
        let flag = relieving.clone();
        let thread = std::thread::Builder::new()
            .name("backing".into())
            .spawn(move || run(&receiver, &durable, &roots, &flag))?;
        Ok(Background {
            sender: Some(sender),
            relieving,
            thread: Some(thread),
        })
    }

    /// Hands a task over. A `Relieve` that is waiting or running already is enough.
    pub(super) fn send(&self, task: Task) {
        if matches!(task, Task::Relieve { .. }) && self.relieving.swap(true, Ordering::AcqRel) {
            return;
        }
        let refused = match &self.sender {
            Some(sender) => sender.try_send(task),
            None => return,
        };
        match refused {
            Ok(()) => {}
            Err(
                TrySendError::Full(Task::Relieve { .. }) | TrySendError::Disconnected(Task::Relieve { .. }),
            ) => {
                // The next write over the limit asks again.
                self.relieving.store(false, Ordering::Release);
            }
            Err(
                TrySendError::Full(Task::Close(descriptor))
                | TrySendError::Disconnected(Task::Close(descriptor)),
            ) => {
                drop(descriptor);
            }
            // As many wait already, or the next one does it.
            Err(
                TrySendError::Full(Task::ClearLeftovers) | TrySendError::Disconnected(Task::ClearLeftovers),
            ) => {}
        }
    }

    /// Closes a descriptor, here when that is quick.
    pub(super) fn close(&self, descriptor: Arc<OwnedFd>) {
        let big = rustix::fs::fstat(&descriptor)
            .is_ok_and(|status| status.st_nlink == 0 && status.st_blocks as u64 * 512 > SMALL_BYTES);
        if big {
            self.send(Task::Close(descriptor));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the backing thread panicked; report this");
        }
    }
}

fn run(receiver: &Receiver<Task>, durable: &Durable, roots: &[Root], relieving: &AtomicBool) {
    while let Ok(task) = receiver.recv() {
        match task {
            Task::Close(descriptor) => drop(descriptor),
            Task::Relieve { most } => {
                durable.relieve(most);
                relieving.store(false, Ordering::Release);
            }
            Task::ClearLeftovers => clear_leftovers(roots),
        }
    }
}
