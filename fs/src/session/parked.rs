//! Operations that wait without a number because one of their inodes is in a state to be settled first.

use super::pending::Submitted;
use crate::hash::HashMap;
use crate::operation::{InodeId, Touched};
use std::collections::VecDeque;

/// What is parked, oldest first, and which inodes are held.
///
/// It holds at most what the kernel has under way, which is the kernel's own bound (`max_background` and one
/// request for each blocked thread).
#[derive(Debug, Default)]
pub(super) struct Parked {
    queue: VecDeque<Submitted>,
    /// Inodes of parked operations: a later operation does not overtake them.
    waiting: HashMap<InodeId, u32>,
    /// Inodes of refused or unbound operations that are being sorted out.
    held: HashMap<InodeId, u32>,
}

impl Parked {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// True when an operation on these inodes must be parked.
    pub(super) fn blocks(&self, touched: &Touched) -> bool {
        let blocked = |counts: &HashMap<InodeId, u32>| {
            !counts.is_empty() && touched.iter().any(|inode| counts.contains_key(inode))
        };
        blocked(&self.held) || blocked(&self.waiting)
    }

    /// True while one of these inodes is being sorted out.
    pub(super) fn holds(&self, touched: &Touched) -> bool {
        !self.held.is_empty() && touched.iter().any(|inode| self.held.contains_key(inode))
    }

    pub(super) fn push(&mut self, submitted: Submitted) {
        for inode in submitted.operation.touched().iter() {
            *self.waiting.entry(*inode).or_default() += 1;
        }
        self.queue.push_back(submitted);
    }

    /// Takes everything out, oldest first, to be looked at again.
    pub(super) fn take(&mut self) -> VecDeque<Submitted> {
        self.waiting.clear();
        std::mem::take(&mut self.queue)
    }

    pub(super) fn hold(&mut self, touched: &Touched) {
        for inode in touched.iter() {
            *self.held.entry(*inode).or_default() += 1;
        }
    }

    pub(super) fn release(&mut self, touched: &Touched) {
        for inode in touched.iter() {
            if let Some(count) = self.held.get_mut(inode) {
                *count -= 1;
                if *count == 0 {
                    self.held.remove(inode);
                }
            }
        }
    }
}
