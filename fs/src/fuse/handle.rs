//! Open files and directories: what stands behind the handle number that the kernel sends with each request.

use fuser::FileHandle;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Numbers for open things. The kernel bounds it: each entry is an open file of some process.
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

    /// Lets go of it; who still works with it finishes first.
    pub fn close(&self, handle: FileHandle) {
        let closed = self
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&handle.0);
        // Closing a descriptor may take long (the last one of a big unlinked file): never under the lock.
        drop(closed);
    }
}
