//! The table of inodes that the kernel knows on one mount: its node numbers, and ours for them.
//!
//! The kernel's node number is the backing inode number, because the FUSE library shows it to applications as
//! `st_ino`; the root is 1. An entry lives from the first look-up to the `FORGET` that brings its count to 0.
//! The kernel itself bounds the table: it forgets what it drops from its caches. No descriptors are kept here.
//!
//! Used by all session threads and by whoever answers operations. The lock is held for map operations only,
//! and while [`Inodes::looked_up`] calls back; lock order: this table, then whatever the callback locks.

use crate::hash::HashMap;
use crate::operation::{Errno, FileHandle, InodeId};
use fuser::{Generation, INodeNo};
use rustix::io::Errno as System;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The kernel's number for the root of a mount (`FUSE_ROOT_ID`).
pub const ROOT_NODE: u64 = 1;

/// Where a backing inode with the root's node number goes, out of the way of real inode numbers.
const MOVED_NODE: u64 = (1 << 63) | ROOT_NODE;

/// The kernel's inodes of one mount.
pub struct Inodes {
    root: InodeId,
    root_number: u64,
    known: RwLock<HashMap<u64, Known>>,
}

struct Known {
    inode: InodeId,
    generation: u32,
    lookups: u64,
}

/// The outcome of [`Inodes::looked_up`].
pub struct LookedUp {
    /// The inode.
    pub inode: InodeId,
    /// What the kernel calls it.
    pub node: u64,
    /// An inode that the kernel has not forgotten, and whose backing number this one has taken over: it is
    /// gone for good.
    pub gone: Option<InodeId>,
}

impl Inodes {
    /// A table that knows the root only, whose backing inode number is `root_number`.
    pub fn new(root: InodeId, root_number: u64) -> Self {
        Inodes {
            root,
            root_number,
            known: RwLock::default(),
        }
    }

    /// What the kernel calls the inode with this backing number.
    pub fn node(&self, number: u64) -> u64 {
        match number {
            _ if number == self.root_number => ROOT_NODE,
            ROOT_NODE => MOVED_NODE,
            _ => number,
        }
    }

    /// Our number for what the kernel calls `node`; `ESTALE` if the kernel should not know it.
    pub fn inode(&self, node: INodeNo) -> Result<InodeId, Errno> {
        if node.0 == ROOT_NODE {
            return Ok(self.root);
        }
        self.read()
            .get(&node.0)
            .map(|known| known.inode)
            .ok_or(Errno::from(System::STALE))
    }

    /// Our number for an inode that the kernel knows, by its backing number and handle.
    pub fn find(&self, number: u64, handle: &FileHandle) -> Option<InodeId> {
        let node = self.node(number);
        if node == ROOT_NODE {
            return Some(self.root);
        }
        let generation = generation(handle);
        self.read()
            .get(&node)
            .filter(|known| known.generation == generation)
            .map(|known| known.inode)
    }

    /// Counts one look-up that the kernel is about to be told of. `fresh` gives an inode that is not known yet
    /// its number; nobody else can see that number before it returns.
    pub fn looked_up(&self, number: u64, handle: &FileHandle, fresh: impl FnOnce() -> InodeId) -> LookedUp {
        let node = self.node(number);
        let generation = generation(handle);
        let mut known = self.write();
        let mut gone = None;
        let lookups = match known.get_mut(&node) {
            Some(same) if same.generation == generation => {
                same.lookups += 1;
                let inode = same.inode;
                return LookedUp { inode, node, gone };
            }
            Some(former) => {
                // The backing file system reused the number. The kernel sees another generation and makes
                // its old inode bad, but will forget both under one number, so they share the count.
                gone = Some(former.inode);
                former.lookups
            }
            None => 0,
        };
        let inode = fresh();
        known.insert(
            node,
            Known {
                inode,
                generation,
                lookups: lookups + 1,
            },
        );
        LookedUp { inode, node, gone }
    }

    /// Takes back look-ups; once none is left, hands out our number while nobody can look it up again.
    pub fn forget(&self, node: INodeNo, lookups: u64, forgotten: impl FnOnce(InodeId)) {
        let mut known = self.write();
        let Some(entry) = known.get_mut(&node.0) else {
            return;
        };
        entry.lookups = entry.lookups.saturating_sub(lookups);
        if entry.lookups > 0 {
            return;
        }
        if let Some(entry) = known.remove(&node.0) {
            forgotten(entry.inode);
        }
        // A scan of a huge tree must not pin its table for ever.
        if known.capacity() > SHRINK_ABOVE && known.len() < known.capacity() / 4 {
            known.shrink_to_fit();
        }
    }

    /// Every node that the kernel knows, the root included.
    pub fn nodes(&self) -> Vec<INodeNo> {
        let known = self.read();
        std::iter::once(ROOT_NODE)
            .chain(known.keys().copied())
            .map(INodeNo)
            .collect()
    }

    /// Every inode of the table but the root, and an empty table.
    pub fn take_all(&self) -> Vec<InodeId> {
        std::mem::take(&mut *self.write())
            .into_values()
            .map(|known| known.inode)
            .collect()
    }

    /// No code panics while it holds the lock, so a poisoned table is still whole.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<u64, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<u64, Known>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tables below this size are not worth shrinking.
const SHRINK_ABOVE: usize = 64 << 10;

/// Tells two inodes apart that had the same number one after the other. The kernel compares 32 bits.
pub fn generation(handle: &FileHandle) -> u32 {
    /// `FILEID_INO32_GEN` (exportfs.h): inode number and generation, 32 bits each, as on ext4.
    const INODE_AND_GENERATION: i32 = 1;
    match (handle.kind, &*handle.bytes) {
        (INODE_AND_GENERATION, [_, _, _, _, a, b, c, d]) => u32::from_ne_bytes([*a, *b, *c, *d]),
        // FNV-1a: handles of other file systems hold the generation somewhere.
        (_, bytes) => bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        }),
    }
}

/// As the FUSE library wants it.
pub fn reply_generation(handle: &FileHandle) -> Generation {
    Generation(u64::from(generation(handle)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(number: u32, generation: u32) -> FileHandle {
        let bytes: Vec<u8> = [number.to_ne_bytes(), generation.to_ne_bytes()].concat();
        FileHandle {
            kind: 1,
            bytes: bytes.into(),
        }
    }

    /// What goes with one look-up fewer.
    fn forgotten_by(table: &Inodes, node: u64) -> Option<InodeId> {
        let mut forgotten = None;
        table.forget(INodeNo(node), 1, |inode| forgotten = Some(inode));
        forgotten
    }

    #[test]
    fn an_inode_is_forgotten_with_its_last_lookup() {
        let table = Inodes::new(InodeId(1), 2);
        let first = table.looked_up(12, &handle(12, 7), || InodeId(5));
        let second = table.looked_up(12, &handle(12, 7), || unreachable!("it is known"));
        assert_eq!((first.inode, second.inode), (InodeId(5), InodeId(5)));
        assert_eq!(forgotten_by(&table, 12), None);
        assert_eq!(table.inode(INodeNo(12)), Ok(InodeId(5)));
        assert_eq!(forgotten_by(&table, 12), Some(InodeId(5)));
        assert!(table.inode(INodeNo(12)).is_err());
    }

    #[test]
    fn a_reused_number_gets_a_new_inode_and_shares_the_count() {
        let table = Inodes::new(InodeId(1), 2);
        table.looked_up(12, &handle(12, 7), || InodeId(5));
        let reused = table.looked_up(12, &handle(12, 8), || InodeId(6));
        assert_eq!((reused.inode, reused.gone), (InodeId(6), Some(InodeId(5))));
        assert_eq!(forgotten_by(&table, 12), None);
        assert_eq!(forgotten_by(&table, 12), Some(InodeId(6)));
    }

    #[test]
    fn the_root_is_node_one_and_a_backing_inode_one_is_moved_away() {
        let table = Inodes::new(InodeId(3), 77);
        assert_eq!(table.node(77), ROOT_NODE);
        assert_eq!(table.inode(INodeNo(ROOT_NODE)), Ok(InodeId(3)));
        let one = table.looked_up(1, &handle(1, 1), || InodeId(9));
        assert_ne!(one.node, ROOT_NODE);
        assert_eq!(table.inode(INodeNo(one.node)), Ok(InodeId(9)));
    }

    #[test]
    fn a_million_inodes_fit_into_150_mebibytes() {
        let table = Inodes::new(InodeId(1), 2);
        for number in 3..1_000_003_u32 {
            table.looked_up(u64::from(number), &handle(number, 1), || {
                InodeId(u64::from(number))
            });
        }
        // One control byte for each bucket beside key and value (hashbrown); buckets are a power of two.
        let bucket = size_of::<(u64, Known)>() + 1;
        let buckets = (table.read().capacity() * 8 / 7).next_power_of_two();
        assert!(bucket * buckets < 150 << 20, "{} MiB", (bucket * buckets) >> 20);
    }
}
