//! What the primary may lack should this node be promoted: everything received since the last checkpoint that both
//! nodes have on disk.

use super::Receiver;
use crate::dirty::store::Saved;
use crate::dirty::{DirtyMap, EpochId};
use crate::operation::{Number, Operation};
use crate::wire::message::Generation;
use std::collections::VecDeque;
use std::num::NonZeroU64;

/// The map of a secondary.
#[derive(Debug)]
pub(crate) struct Tracked {
    extent_bytes: NonZeroU64,
    pub(crate) map: DirtyMap,
    /// Checkpoints that were received, and the epochs that they ended, oldest first.
    sealed: VecDeque<(Number, EpochId)>,
    /// How many checkpoints the primary has counted, as far as it has told.
    pub(crate) counted: u64,
}

impl Tracked {
    pub(crate) fn new(extent_bytes: NonZeroU64) -> Self {
        Tracked {
            extent_bytes,
            map: DirtyMap::new(extent_bytes),
            sealed: VecDeque::new(),
            counted: 0,
        }
    }

    /// A session begins with a primary that has counted so many checkpoints.
    pub(crate) fn begin(&mut self, counted: u64) {
        *self = Self::new(self.extent_bytes);
        self.counted = counted;
    }

    /// An operation is received: marked before it can be applied. One that is sent again is marked again, which
    /// changes little.
    pub(crate) fn take(&mut self, number: Number, operation: &Operation) {
        match operation {
            Operation::Checkpoint => {
                if self.sealed.back().is_none_or(|(last, _)| *last < number) {
                    let epoch = self.map.seal();
                    self.sealed.push_back((number, epoch));
                }
            }
            other => self.map.apply(other),
        }
    }

    /// Both nodes have everything below this checkpoint on disk.
    pub(crate) fn covered(&mut self, number: Number) {
        self.counted += 1;
        while let Some((sealed, epoch)) = self.sealed.front().copied() {
            if sealed > number {
                return;
            }
            self.map.covered(epoch);
            self.sealed.pop_front();
        }
    }
}

impl Receiver {
    /// What the primary may lack, once this node has left the session.
    pub fn saved(&self, generation: Generation) -> Saved {
        let mut inner = self.shared.lock();
        let inner = &mut *inner;
        // Where the primary has an inode is not known here: its handle tells.
        inner.tracked.map.part(&|_| None, false);
        let find = |inode| self.shared.store.place(inode);
        let peer = |inode| inner.peer_handles.get(&inode).cloned();
        Saved {
            peer_checkpoint: inner.tracked.counted,
            ..Saved::of(generation, inner.tracked.map.plan(), &find, &peer)
        }
    }
}
