//! Open files and directories: what stands behind the handle number that the kernel sends with each request,
//! and which inodes some process may write to.

use crate::hash::HashMap;
use crate::operation::InodeId;
use fuser::FileHandle;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

/// Numbers for open things. Each entry is an open file of some process.
pub struct Handles<T> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, T>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Handles {
            // 0 is what the kernel sends where it has no handle.
            next: AtomicU64::new(1),
            open: RwLock::default(),
        }
    }
}

impl<T: Clone> Handles<T> {
    /// Keeps `thing` until [`Handles::close`].
    pub fn open(&self, thing: T) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, thing);
        FileHandle(number)
    }

    /// What is open under this number.
    pub fn find(&self, handle: FileHandle) -> Option<T> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&handle.0)
            .cloned()
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Lets go of it. To be dropped outside any lock: closing the last descriptor of a big unlinked file takes long.
    pub fn close(&self, handle: FileHandle) -> Option<T> {
        self.open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&handle.0)
    }
}

/// How many open files each inode has that can be written to, or mapped for writing.
#[derive(Default)]
pub struct Writers {
    count: Mutex<HashMap<InodeId, u64>>,
}

impl Writers {
    /// One more.
    pub fn add(&self, inode: InodeId) {
        *self
            .count
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(inode)
            .or_default() += 1;
    }

    /// One less.
    pub fn remove(&self, inode: InodeId) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = count.get_mut(&inode) {
            *left -= 1;
            if *left == 0 {
                count.remove(&inode);
            }
        }
    }

    /// True while there is one. A mapping keeps its file open, and the kernel writes back before it closes one.
    pub fn has(&self, inode: InodeId) -> bool {
        self.count
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&inode)
    }
}
