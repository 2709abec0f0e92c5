//! Which number an inode has: the reverse of [`super::inodes`], kept only while a copy needs it.
//!
//! A copy meets inodes by name, and must know each that was met before under another name. A million entries
//! take below 100 MiB: those of [`Slot`], 33 bytes, in tables that are at least half full.

use super::inodes::{Slot, lock};
use super::store::Store;
use crate::operation::{FileHandle, InodeId};
use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::Mutex;

const SHARDS: usize = 64;
/// Bits of the hash from which the shard is taken. The table below takes the lowest and the highest: with those
/// in common, all entries of a shard would crowd in few places.
const SHARD_SHIFT: u32 = 40;

/// The table. Its locks are innermost: nothing else is locked under one.
pub(super) struct Index {
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<Slot, InodeId, RandomState>>>,
}

impl Index {
    pub(super) fn new() -> Self {
        let hasher = RandomState::new();
        let shards = (0..SHARDS)
            .map(|_| Mutex::new(HashMap::with_hasher(hasher.clone())))
            .collect();
        Index { hasher, shards }
    }

    pub(super) fn find(&self, slot: &Slot) -> Option<InodeId> {
        lock(self.shard(slot)).get(slot).copied()
    }

    /// From now on `slot` is `inode`, whatever it was.
    pub(super) fn insert(&self, slot: Slot, inode: InodeId) {
        lock(self.shard(&slot)).insert(slot, inode);
    }

    /// Makes `slot` be `inode` unless it is another; gives which it is then.
    pub(super) fn claim(&self, slot: Slot, inode: InodeId) -> InodeId {
        match lock(self.shard(&slot)).entry(slot) {
            Entry::Occupied(taken) => *taken.get(),
            Entry::Vacant(free) => *free.insert(inode),
        }
    }

    /// `slot` is not `inode` any more; if it is another by now, that stays.
    pub(super) fn remove(&self, slot: Slot, inode: InodeId) {
        if let Entry::Occupied(taken) = lock(self.shard(&slot)).entry(slot)
            && *taken.get() == inode
        {
            taken.remove();
        }
    }

    fn shard(&self, slot: &Slot) -> &Mutex<HashMap<Slot, InodeId, RandomState>> {
        &self.shards[(self.hasher.hash_one(slot) >> SHARD_SHIFT) as usize % SHARDS]
    }
}

impl Store {
    /// Builds the index of what is known, which [`Store::find_inode`], [`Store::adopt`] and
    /// [`Store::place_names`] use, and keeps it current from now on. They do it themselves if it was not done;
    /// learning an inode waits meanwhile, a fraction of a second for a million.
    pub fn begin_index(&self) {
        self.inodes.begin_index();
    }

    /// Drops the index.
    pub fn end_index(&self) {
        self.inodes.end_index();
    }

    /// The number of the inode that `handle` finds in directory `root`. If several were learnt for it, which
    /// must not be, the last.
    pub fn find_inode(&self, root: usize, handle: &FileHandle) -> Option<InodeId> {
        self.inodes.reverse(&self.slot(root, handle)?)
    }

    /// As [`Store::find_inode`]; an inode that has no number gets a fresh one and is learnt, which the second
    /// value tells. Two callers at once get the same number.
    pub fn adopt(&self, root: usize, handle: &FileHandle) -> (InodeId, bool) {
        // An index beyond the directories would never open: as with `learn`, nothing is learnt.
        let Some(slot) = self.slot(root, handle) else {
            return (self.next_inode(), true);
        };
        if let Some(known) = self.inodes.reverse(&slot) {
            return (known, false);
        }
        // Lost when another caller was faster: there are enough.
        let fresh = self.next_inode();
        let inode = self.inodes.claim(fresh, slot);
        (inode, inode == fresh)
    }

    /// Learns `inode` unless its handle is that of another number; false then.
    pub(super) fn claim(&self, inode: InodeId, root: usize, handle: &FileHandle) -> bool {
        self.raise_next(inode);
        self.slot(root, handle)
            .is_some_and(|slot| self.inodes.claim(inode, slot) == inode)
    }

    /// Forgets every inode but the roots. Nothing may be under way: a new session begins, and its numbers may
    /// be those of the last. What was written and is not synced yet is still covered by the next checkpoint.
    pub fn forget_all(&self) {
        let forgotten = self.inodes.drain(|inode| self.is_root(inode));
        for inode in forgotten {
            self.close(self.descriptors.remove(inode));
        }
        self.durable.written.disown(|inode| self.is_root(inode));
    }

    fn slot(&self, root: usize, handle: &FileHandle) -> Option<Slot> {
        (root < self.directories()).then(|| Slot::new(root as u16, handle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_entries_take_less_than_100_mib() {
        let index = Index::new();
        for n in 0..1_000_000_u64 {
            let bytes = n.to_le_bytes().as_slice().into();
            index.insert(Slot::new(0, &FileHandle { kind: 1, bytes }), InodeId(n));
        }
        let capacity: usize = index.shards.iter().map(|shard| lock(shard).capacity()).sum();
        // The table keeps an eighth free, and a byte beside each place.
        let bytes = capacity * 8 / 7 * (size_of::<(Slot, InodeId)>() + 1);
        assert!(bytes < 100 << 20, "{bytes} bytes");
        assert!(capacity < 2_500_000, "the shards are filled unevenly");
    }
}
