//! The jobs of a copy and who works on them.

use super::super::lane::CopyError;
use super::files::{BATCH_BYTES_MAX, NODES_AT_A_TIME, SMALL_BYTES_MAX};
use crate::dirty::Extents;
use crate::operation::{InodeId, Name};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A node that has its name on the target and neither data nor attributes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unfinished {
    pub(super) inode: InodeId,
    /// Bytes, of a regular file.
    pub(super) size: Option<u64>,
    /// Made on the target just now: there is nothing to compare with.
    pub(super) new: bool,
}

/// A large file under way.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) inode: InodeId,
    pub(super) new: bool,
    pub(super) pieces_left: AtomicUsize,
}

#[derive(Debug)]
pub(super) enum Job {
    /// Compare a directory's names and bring them over.
    Directory(InodeId),
    /// Bring these names over again.
    Names(InodeId, Vec<Name>),
    /// Compare a directory's names; bring over those that only one side has, and these.
    Additions(InodeId, BTreeSet<Name>),
    /// Small files, and nodes without data.
    Nodes(Vec<Unfinished>),
    /// The first step of a large file.
    Large(Unfinished),
    /// Part of a large file.
    Piece {
        file: Arc<Large>,
        offset: u64,
        length: u64,
    },
    /// These extents of a file that the target has, and its attributes.
    Part(InodeId, Extents),
    /// Some of them.
    Ranges {
        file: Arc<Large>,
        ranges: Vec<Range<u64>>,
    },
    /// Nothing but attributes.
    Attributes(Vec<InodeId>),
}

/// Jobs and who works on them.
#[derive(Default)]
pub(super) struct Board {
    state: Mutex<Jobs>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct Jobs {
    pub(super) queue: VecDeque<Job>,
    working: usize,
    pub(super) failed: Option<CopyError>,
    /// Found by the names step, for the next one.
    pub(super) nodes: Vec<Unfinished>,
}

impl Board {
    /// The next job; none when a step is over or has failed.
    pub(super) fn take(&self) -> Option<(Job, Working<'_>)> {
        let mut jobs = self.lock();
        loop {
            if jobs.failed.is_some() {
                return None;
            }
            if let Some(job) = jobs.queue.pop_front() {
                jobs.working += 1;
                let working = Working {
                    board: self,
                    result: None,
                };
                return Some((job, working));
            }
            if jobs.working == 0 {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Somebody has failed: the step is over.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
    }

    pub(super) fn add(&self, job: Job) {
        self.lock().queue.push_back(job);
        self.changed.notify_all();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Jobs> {
        // A thread that panics fails its job ([`Working`]), and so the copy.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job that somebody works on. Dropped without an end, by a panic, it has failed.
pub(super) struct Working<'a> {
    board: &'a Board,
    result: Option<Result<(), CopyError>>,
}

impl Working<'_> {
    pub(super) fn end(mut self, result: Result<(), CopyError>) {
        self.result = Some(result);
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut jobs = self.board.lock();
        jobs.working -= 1;
        if let Err(error) = self.result.take().unwrap_or(Err(CopyError::Over)) {
            // The first one tells more than those that follow from it.
            jobs.failed.get_or_insert(error);
        }
        drop(jobs);
        self.board.changed.notify_all();
    }
}

/// Small files together, large ones alone.
pub(super) fn jobs_of(nodes: Vec<Unfinished>) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for node in nodes {
        let size = node.size.unwrap_or(0);
        if size > SMALL_BYTES_MAX {
            jobs.push(Job::Large(node));
            continue;
        }
        if batch.len() >= NODES_AT_A_TIME || (!batch.is_empty() && bytes + size > BATCH_BYTES_MAX) {
            jobs.push(Job::Nodes(std::mem::take(&mut batch)));
            bytes = 0;
        }
        batch.push(node);
        bytes += size;
    }
    if !batch.is_empty() {
        jobs.push(Job::Nodes(batch));
    }
    jobs
}
