//! Which inode the kernel means by a number: a descriptor that finds it again (`O_PATH`), kept until the kernel
//! forgets it. The number is the backing file system's own, which cannot be given to another file meanwhile.

use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

/// What the kernel calls the root of every FUSE file system.
pub const ROOT: u64 = 1;

struct Node {
    descriptor: Arc<OwnedFd>,
    lookups: u64,
}

/// The table.
pub struct Nodes {
    known: RwLock<HashMap<u64, Node>>,
}

impl Nodes {
    /// The root alone.
    pub fn new(root: OwnedFd) -> Self {
        let root = Node {
            descriptor: Arc::new(root),
            lookups: 1,
        };
        Nodes {
            known: RwLock::new(HashMap::from([(ROOT, root)])),
        }
    }

    /// The inode of this number.
    ///
    /// # Errors
    /// `ESTALE` when the kernel was never told of it.
    pub fn find(&self, number: u64) -> io::Result<Arc<OwnedFd>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&number)
            .map(|node| node.descriptor.clone())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    /// Counts a look-up of an inode; gives the descriptor that is kept.
    pub fn looked_up(&self, number: u64, descriptor: OwnedFd) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known
            .entry(number)
            .or_insert_with(|| Node {
                descriptor: Arc::new(descriptor),
                lookups: 0,
            })
            .lookups += 1;
    }

    /// Takes look-ups back.
    pub fn forget(&self, number: u64, lookups: u64) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if number == ROOT {
            return;
        }
        if let Some(node) = known.get_mut(&number) {
            node.lookups = node.lookups.saturating_sub(lookups);
            if node.lookups == 0 {
                known.remove(&number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> OwnedFd {
        std::fs::File::open("/").unwrap().into()
    }

    #[test]
    fn an_inode_is_forgotten_with_its_last_look_up() {
        let nodes = Nodes::new(descriptor());
        nodes.looked_up(7, descriptor());
        nodes.looked_up(7, descriptor());
        nodes.forget(7, 1);
        assert!(nodes.find(7).is_ok());
        nodes.forget(7, 1);
        assert!(nodes.find(7).is_err());
        nodes.forget(ROOT, 9);
        assert!(nodes.find(ROOT).is_ok());
    }
}
