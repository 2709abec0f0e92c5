//! The jobs of a copy.

use super::super::board;
use super::files::{BATCH_BYTES_MAX, NODES_AT_A_TIME, SMALL_BYTES_MAX};
use crate::dirty::Extents;
use crate::operation::{InodeId, Name};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

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

/// The jobs of a copy. What the names step finds for the next one is kept beside them.
pub(super) type Board = board::Board<Job, Vec<Unfinished>>;

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
