//! What is known of each inode: the directory it belongs to and its handle.
//!
//! A scan of a million files teaches a million inodes, so an entry is 32 bytes: short handles (ext4 has 8 bytes,
//! XFS 12) lie inline. Sharded, so that growing one table neither stops everybody nor doubles all of it at once.

use super::index::Index;
use crate::operation::{FileHandle, InodeId};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

const SHARDS: usize = 64;
const INLINE_BYTES: usize = 12;

/// A mutex whose data stays valid wherever a panic may hit: poisoning tells nothing here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where an inode is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    /// A handle of at most [`INLINE_BYTES`].
    Inline {
        root: u16,
        length: u8,
        kind: i32,
        bytes: [u8; INLINE_BYTES],
    },
    /// A longer one.
    Boxed(Box<(u16, FileHandle)>),
}

impl Slot {
    pub(super) fn new(root: u16, handle: &FileHandle) -> Self {
        let length = handle.bytes.len();
        if length > INLINE_BYTES {
            return Slot::Boxed(Box::new((root, handle.clone())));
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..length].copy_from_slice(&handle.bytes);
        Slot::Inline {
            root,
            length: length as u8,
            kind: handle.kind,
            bytes,
        }
    }

    pub(super) fn root(&self) -> usize {
        match self {
            Slot::Inline { root, .. } => usize::from(*root),
            Slot::Boxed(boxed) => usize::from(boxed.0),
        }
    }

    pub(super) fn kind(&self) -> i32 {
        match self {
            Slot::Inline { kind, .. } => *kind,
            Slot::Boxed(boxed) => boxed.1.kind,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Slot::Inline { length, bytes, .. } => &bytes[..usize::from(*length)],
            Slot::Boxed(boxed) => &boxed.1.bytes,
        }
    }

    pub(super) fn handle(&self) -> FileHandle {
        FileHandle {
            kind: self.kind(),
            bytes: Arc::from(self.bytes()),
        }
    }
}

/// The numbers are a counter of our own: one multiplication spreads them, nobody can choose them to collide.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte) ^ self.0);
        }
    }

    fn write_u64(&mut self, number: u64) {
        let product = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }
}

pub(super) type IdMap<T> = HashMap<InodeId, T, BuildHasherDefault<IdHasher>>;

/// The table, and its reverse while somebody needs it.
///
/// Locks are taken in this order: `index`, a shard, a shard of the index. What changes the table changes the
/// index under the same locks, so that both say the same to whoever asks.
pub(super) struct Inodes {
    shards: Vec<Mutex<IdMap<Slot>>>,
    index: RwLock<Option<Index>>,
}

impl Inodes {
    pub(super) fn new() -> Self {
        Inodes {
            shards: (0..SHARDS).map(|_| Mutex::new(IdMap::default())).collect(),
            index: RwLock::new(None),
        }
    }

    pub(super) fn insert(&self, inode: InodeId, slot: Slot) {
        let index = self.index();
        let mut shard = lock(self.shard(inode));
        let before = shard.insert(inode, slot.clone());
        if let Some(index) = &*index {
            if let Some(before) = before.filter(|before| *before != slot) {
                index.remove(before, inode);
            }
            index.insert(slot, inode);
        }
    }

    pub(super) fn find(&self, inode: InodeId) -> Option<Slot> {
        lock(self.shard(inode)).get(&inode).cloned()
    }

    pub(super) fn remove(&self, inode: InodeId) {
        let index = self.index();
        let mut shard = lock(self.shard(inode));
        if let Some(slot) = shard.remove(&inode)
            && let Some(index) = &*index
        {
            index.remove(slot, inode);
        }
    }

    /// Removes all but those that `stay`, and gives them.
    pub(super) fn drain(&self, stay: impl Fn(InodeId) -> bool) -> Vec<InodeId> {
        let index = self.index();
        let mut removed = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            for (inode, slot) in shard.extract_if(|inode, _| !stay(*inode)) {
                if let Some(index) = &*index {
                    index.remove(slot, inode);
                }
                removed.push(inode);
            }
            shard.shrink_to_fit();
        }
        removed
    }

    /// Inserts `inode` unless its slot is another's; gives whose it is then.
    pub(super) fn claim(&self, inode: InodeId, slot: Slot) -> InodeId {
        self.with_index(|index| {
            let mut shard = lock(self.shard(inode));
            let owner = index.claim(slot.clone(), inode);
            if owner == inode {
                shard.insert(inode, slot.clone());
            }
            owner
        })
    }

    /// The inode that has this slot.
    pub(super) fn reverse(&self, slot: &Slot) -> Option<InodeId> {
        self.with_index(|index| index.find(slot))
    }

    pub(super) fn begin_index(&self) {
        let mut index = self.index_to_change();
        if index.is_some() {
            return;
        }
        let new = Index::new();
        for shard in &self.shards {
            for (inode, slot) in &*lock(shard) {
                new.insert(slot.clone(), *inode);
            }
        }
        *index = Some(new);
    }

    pub(super) fn end_index(&self) {
        let index = self.index_to_change().take();
        drop(index);
    }

    /// Runs `ask` on the index, which is built if there is none.
    fn with_index<T>(&self, ask: impl Fn(&Index) -> T) -> T {
        loop {
            if let Some(index) = &*self.index() {
                return ask(index);
            }
            self.begin_index();
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, Option<Index>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_to_change(&self) -> RwLockWriteGuard<'_, Option<Index>> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, inode: InodeId) -> &Mutex<IdMap<Slot>> {
        &self.shards[inode.0 as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_32_bytes() {
        assert_eq!(size_of::<(InodeId, Slot)>(), 32);
    }

    #[test]
    fn handles_of_every_length_come_back_as_they_were() {
        for length in 0..=128 {
            let handle = FileHandle {
                kind: -7,
                bytes: (0..length).map(|n| n as u8).collect(),
            };
            let slot = Slot::new(3, &handle);
            assert_eq!((slot.root(), slot.handle()), (3, handle));
        }
    }
}
