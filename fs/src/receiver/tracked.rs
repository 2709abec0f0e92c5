//! What the primary may lack should this node be promoted: everything received since the last checkpoint that both
//! nodes have on disk.

use super::Receiver;
use crate::dirty::store::{Saved, SavedNode};
use crate::dirty::{DirtyMap, EpochId};
use crate::operation::{Number, Operation};
use crate::wire::message::Generation;
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;

/// The map of a secondary.
#[derive(Debug)]
pub(super) struct Tracked {
    extent_bytes: NonZeroU64,
    pub(super) map: DirtyMap,
    /// Checkpoints that were received, and the epochs that they ended, oldest first.
    sealed: VecDeque<(Number, EpochId)>,
    /// How many checkpoints the primary has counted, as far as it has told.
    pub(super) counted: u64,
}

impl Tracked {
    pub(super) fn new(extent_bytes: NonZeroU64) -> Self {
        Tracked {
            extent_bytes,
            map: DirtyMap::new(extent_bytes),
            sealed: VecDeque::new(),
            counted: 0,
        }
    }

    /// A session begins with a primary that has counted so many checkpoints.
    pub(super) fn begin(&mut self, counted: u64) {
        *self = Self::new(self.extent_bytes);
        self.counted = counted;
    }

    /// An operation is received: marked before it can be applied. One that is sent again is marked again, which
    /// changes little.
    pub(super) fn take(&mut self, number: Number, operation: &Operation) {
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
    pub(super) fn covered(&mut self, number: Number) {
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
        inner.tracked.map.part(&|_| None);
        let plan = inner.tracked.map.plan();
        let mut nodes = HashMap::with_capacity(plan.nodes.len());
        for (inode, marks) in &plan.nodes {
            // What is gone has no name here either, and its names are marked.
            let Some((root, handle)) = self.shared.store.place(*inode) else {
                continue;
            };
            nodes.insert(
                *inode,
                Box::new(SavedNode {
                    root: root as u32,
                    handle,
                    peer_handle: inner.peer_handles.get(inode).cloned(),
                    place: marks.place.clone(),
                    content: marks.content.clone(),
                    attributes: marks.attributes,
                }),
            );
        }
        Saved {
            generation,
            names_moved: false,
            peer_checkpoint: inner.tracked.counted,
            everything: plan.everything,
            nodes,
            names: plan.names.clone(),
            additions: plan.additions.clone(),
        }
    }
}
