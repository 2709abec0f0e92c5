//! Making operations durable: `fsync` of an inode, `syncfs` of every backing file system.
//!
//! A failure is reported once, as failed, and never retried into success: the kernel forgets which pages it lost.

use super::inodes::lock;
use super::open::{Access, Opened};
use super::refusal::Failure;
use super::store::{Root, Store, Unopened};
use super::written::Written;
use crate::operation::{Errno, InodeId};
use rustix::fs::FileType;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// What is not on disk yet, and how it gets there. Shared with the background thread.
pub(super) struct Durable {
    pub(super) written: Written,
    roots: Arc<Vec<Root>>,
    /// A failed `syncfs` or write-back that nobody asked for. The next sync or checkpoint reports it.
    fault: Mutex<Option<Errno>>,
    /// Held during such a `syncfs`.
    relieving: Mutex<()>,
}

impl Durable {
    pub(super) fn new(roots: Arc<Vec<Root>>) -> Self {
        Durable {
            written: Written::default(),
            roots,
            fault: Mutex::new(None),
            relieving: Mutex::new(()),
        }
    }

    /// Everything that was applied when this began is on disk when it ends well.
    pub(super) fn checkpoint(&self) -> Result<(), Errno> {
        self.take_fault()?;
        let stamp = self.written.stamp();
        let mut synced = BTreeSet::new();
        let mut first: Result<(), Errno> = Ok(());
        for root in self.roots.iter() {
            if !synced.insert(root.device) {
                continue;
            }
            // All are tried: an error of one disk leaves the others no less durable.
            if let Err(errno) = rustix::fs::syncfs(&root.mount) {
                tracing::error!(directory = %root.name(), %errno, "syncfs failed: the disk lost data");
                first = first.and(Err(errno.into()));
            }
        }
        first?;
        drop(self.written.release_all(stamp));
        Ok(())
    }

    /// A checkpoint that nobody asked for, if more than `most` written inodes keep a descriptor. One at a time:
    /// who comes meanwhile waits and finds it done.
    pub(super) fn relieve(&self, most: usize) {
        let _one = lock(&self.relieving);
        if self.written.count() > most
            && let Err(errno) = self.checkpoint()
        {
            *lock(&self.fault) = Some(errno);
        }
    }

    /// Writes one file's pages back outside any sync. The error is seen once per descriptor, so it is kept for the
    /// next sync or checkpoint, too.
    pub(super) fn write_back(&self, file: &Opened) -> rustix::io::Result<()> {
        let result = rustix::fs::fdatasync(file.fd());
        if let Err(errno) = result {
            *lock(&self.fault) = Some(errno.into());
        }
        result
    }

    fn take_fault(&self) -> Result<(), Errno> {
        match lock(&self.fault).take() {
            Some(errno) => Err(errno),
            None => Ok(()),
        }
    }
}

impl Store {
    /// `syncfs` of every backing file system: what was applied before is on disk when it succeeds.
    ///
    /// # Errors
    /// The disk is failing; what lies below the last checkpoint cannot be trusted.
    pub fn checkpoint(&self) -> Result<(), Errno> {
        self.durable.checkpoint()
    }

    /// `fsync` or `fdatasync` of one file or directory.
    pub(super) fn sync(&self, inode: InodeId, data_only: bool) -> Result<(), Failure> {
        self.durable.take_fault().map_err(Failure::Failed)?;
        let stamp = self.durable.written.stamp();
        let opened = match self.durable.written.find(inode) {
            Some(descriptor) => Opened {
                descriptor,
                access: Access::Write,
            },
            None => match self.open(inode, Access::Read) {
                Ok(opened) => opened,
                Err(Unopened::NotBound(inode)) => return Err(Failure::NotBound(inode)),
                Err(Unopened::Refused(errno)) => return self.sync_special(inode, errno),
            },
        };
        let result = if data_only {
            rustix::fs::fdatasync(opened.fd())
        } else {
            rustix::fs::fsync(opened.fd())
        };
        result.map_err(|errno| Failure::Failed(errno.into()))?;
        drop(self.durable.written.release(inode, stamp));
        Ok(())
    }

    /// Nodes that cannot be opened for reading have no data; their attributes go with the file system.
    fn sync_special(&self, inode: InodeId, errno: Errno) -> Result<(), Failure> {
        let opened = self.open(inode, Access::Path)?;
        let status = opened.status().map_err(|errno| Failure::of(errno, false))?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile | FileType::Directory => Err(Unopened::Refused(errno).into()),
            _ => {
                let root = self.root_of(inode)?;
                rustix::fs::syncfs(&self.root(root).mount).map_err(|errno| Failure::Failed(errno.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{Operation, Outcome};
    use rustix::fs::{Mode, OFlags};

    #[test]
    fn a_failed_sync_that_nobody_asked_for_is_reported_once_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        let store = Store::new(vec![root]).unwrap();
        let sync = Operation::Sync {
            inode: InodeId::root(0),
            data_only: false,
        };
        for asked in [sync, Operation::Checkpoint] {
            let errno = Errno::from(rustix::io::Errno::IO);
            *lock(&store.durable.fault) = Some(errno);
            assert_eq!(store.apply(&asked), Outcome::Failed(errno));
            assert!(matches!(store.apply(&asked), Outcome::Applied(_)));
        }
    }
}
