//! Makes the kernel drop what it cached of a change that then failed.
//!
//! A notification can wait in the kernel for a page that waits for an answer of ours. So one thread that
//! serves no request sends them, always after the failed request was answered.

use crate::hash::HashSet;
use fuser::{INodeNo, Notifier};
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use tracing::{debug, warn};

#[derive(Clone, PartialEq, Eq, Hash)]
enum Stale {
    /// Attributes, ACLs and pages.
    Inode(INodeNo),
    /// A name in a directory.
    Name(INodeNo, OsString),
}

type Answer = Box<dyn FnOnce() + Send>;

/// What waits is a set, so it is bounded by what the kernel knows; each of the answers is a request that some
/// thread of an application waits for.
#[derive(Default)]
struct Waiting {
    stale: HashSet<Stale>,
    answers: Vec<(INodeNo, Answer)>,
    ended: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.stale.is_empty() && self.answers.is_empty()
    }
}

/// Hands stale inodes and names to the thread that tells the kernel.
#[derive(Clone, Default)]
pub struct Invalidator {
    shared: Arc<(Mutex<Waiting>, Condvar)>,
}

impl Invalidator {
    /// The content and attributes of `node` are not what the kernel believes.
    pub fn inode(&self, node: INodeNo) {
        self.add(Stale::Inode(node));
    }

    /// `name` in `parent` may not be what the kernel believes.
    pub fn name(&self, parent: INodeNo, name: &OsStr) {
        self.add(Stale::Name(parent, name.to_owned()));
    }

    /// Has the kernel write back and drop the pages of `node`, then calls `answer`: what is in mapped pages is
    /// then in the backing file. Dropped with its reply, which fails the request, when the mount has ended.
    pub fn after_write_back(&self, node: INodeNo, answer: impl FnOnce() + Send + 'static) {
        let mut waiting = self.lock();
        if !waiting.ended {
            waiting.answers.push((node, Box::new(answer)));
            self.shared.1.notify_all();
        }
    }

    /// Starts the thread; it ends with [`Invalidator::end`].
    pub fn start(&self, notifier: Notifier) -> std::io::Result<JoinHandle<()>> {
        let own = self.clone();
        std::thread::Builder::new()
            .name("invalidate".into())
            .spawn(move || own.run(&notifier))
    }

    /// Ends the thread. What still waits is dropped: the mount is gone.
    pub fn end(&self) {
        let mut waiting = self.lock();
        waiting.ended = true;
        let dropped = (
            std::mem::take(&mut waiting.stale),
            std::mem::take(&mut waiting.answers),
        );
        drop(waiting);
        // Dropping a reply sends it: not under the lock.
        drop(dropped);
        self.shared.1.notify_all();
    }

    fn add(&self, stale: Stale) {
        let mut waiting = self.lock();
        if !waiting.ended {
            waiting.stale.insert(stale);
            self.shared.1.notify_all();
        }
    }

    fn run(&self, notifier: &Notifier) {
        while let Some(batch) = self.next() {
            for stale in batch.stale {
                tell(match &stale {
                    Stale::Inode(node) => notifier.inval_inode(*node, 0, 0),
                    Stale::Name(parent, name) => notifier.inval_entry(*parent, name),
                });
            }
            for (node, answer) in batch.answers {
                tell(notifier.inval_inode(node, 0, 0));
                answer();
            }
        }
    }

    fn next(&self) -> Option<Waiting> {
        let mut waiting = self.lock();
        loop {
            if waiting.ended {
                return None;
            }
            if !waiting.is_empty() {
                return Some(std::mem::take(&mut *waiting));
            }
            waiting = self
                .shared
                .1
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(told: std::io::Result<()>) {
    match told {
        Ok(()) => {}
        // The connection has ended and all caches with it.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            debug!("nothing to invalidate any more");
        }
        Err(error) => warn!(%error, "the kernel may go on showing what a failed change left in its cache"),
    }
}
