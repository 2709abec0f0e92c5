//! The inodes written since the last sync that covers them, each with its descriptor.
//!
//! The kernel reports a failed write-back to descriptors that were open before it, and forgets it with the inode
//! when nothing keeps that in memory. So the descriptor of a write stays until an `fsync` or a checkpoint that
//! began after the write has succeeded.

use super::inodes::{IdMap, lock};
use crate::operation::InodeId;
use rustix::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// The table of written inodes.
#[derive(Default)]
pub(super) struct Written {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    pins: IdMap<Pin>,
    /// Of inodes that have no number any more.
    orphans: Vec<Pin>,
    /// Counts ended writes; a stamp is a value of it.
    ended: u64,
}

struct Pin {
    descriptor: Arc<OwnedFd>,
    /// Writes now in the kernel.
    active: u32,
    /// `ended` after the last write that has ended.
    last: u64,
}

/// A point between writes: what a sync that begins now covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp(u64);

/// A write in progress.
pub(super) struct Writer<'a> {
    written: &'a Written,
    inode: InodeId,
    pub(super) descriptor: Arc<OwnedFd>,
}

impl Written {
    /// Begins a write through the inode's pinned descriptor; `descriptor` when there is none yet.
    pub(super) fn begin(&self, inode: InodeId, descriptor: Arc<OwnedFd>) -> Writer<'_> {
        let mut inner = lock(&self.inner);
        let pin = inner.pins.entry(inode).or_insert(Pin {
            descriptor,
            active: 0,
            last: 0,
        });
        pin.active += 1;
        Writer {
            written: self,
            inode,
            descriptor: pin.descriptor.clone(),
        }
    }

    /// The pinned descriptor.
    pub(super) fn find(&self, inode: InodeId) -> Option<Arc<OwnedFd>> {
        lock(&self.inner)
            .pins
            .get(&inode)
            .map(|pin| pin.descriptor.clone())
    }

    pub(super) fn count(&self) -> usize {
        let inner = lock(&self.inner);
        inner.pins.len() + inner.orphans.len()
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp(lock(&self.inner).ended)
    }

    /// A sync of `inode` that began at `stamp` succeeded.
    #[must_use]
    pub(super) fn release(&self, inode: InodeId, stamp: Stamp) -> Option<Arc<OwnedFd>> {
        let mut inner = lock(&self.inner);
        inner
            .pins
            .get(&inode)
            .is_some_and(|pin| pin.covered(stamp))
            .then(|| inner.pins.remove(&inode).map(|pin| pin.descriptor))
            .flatten()
    }

    /// A checkpoint that began at `stamp` succeeded.
    #[must_use]
    pub(super) fn release_all(&self, stamp: Stamp) -> Vec<Arc<OwnedFd>> {
        let inner = &mut *lock(&self.inner);
        let covered = inner.pins.extract_if(|_, pin| pin.covered(stamp));
        let mut out: Vec<_> = covered.map(|(_, pin)| pin.descriptor).collect();
        let orphans = inner.orphans.extract_if(.., |pin| pin.covered(stamp));
        out.extend(orphans.map(|pin| pin.descriptor));
        out
    }

    /// The numbers that do not `stay` mean nothing any more: their descriptors are found no longer, and still
    /// wait for a checkpoint. No write of theirs may be under way.
    pub(super) fn disown(&self, stay: impl Fn(InodeId) -> bool) {
        let inner = &mut *lock(&self.inner);
        let gone = inner.pins.extract_if(|inode, _| !stay(*inode));
        inner.orphans.extend(gone.map(|(_, pin)| pin));
    }

    /// The inode has no name any more, or is forgotten: its write-back concerns nobody.
    #[must_use]
    pub(super) fn remove(&self, inode: InodeId) -> Option<Arc<OwnedFd>> {
        lock(&self.inner).pins.remove(&inode).map(|pin| pin.descriptor)
    }
}

impl Pin {
    fn covered(&self, stamp: Stamp) -> bool {
        self.active == 0 && self.last <= stamp.0
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        let inner = &mut *lock(&self.written.inner);
        inner.ended += 1;
        // Absent when the inode was forgotten during the write.
        if let Some(pin) = inner.pins.get_mut(&self.inode) {
            pin.active = pin.active.saturating_sub(1);
            pin.last = inner.ended;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/dev/null").unwrap().into())
    }

    #[test]
    fn a_sync_releases_only_writes_that_ended_before_it_began() {
        let written = Written::default();
        let inode = InodeId(7);
        drop(written.begin(inode, descriptor()));
        let before = written.stamp();
        assert!(written.release(inode, before).is_some());

        let writer = written.begin(inode, descriptor());
        let during = written.stamp();
        assert!(written.release_all(during).is_empty(), "still writing");
        drop(writer);
        assert!(
            written.release(inode, during).is_none(),
            "ended after the sync began"
        );
        assert_eq!(written.release_all(written.stamp()).len(), 1);
        assert_eq!(written.count(), 0);
    }

    #[test]
    fn a_write_of_a_number_that_is_gone_waits_for_a_checkpoint_and_is_not_found() {
        let written = Written::default();
        let inode = InodeId(7);
        let before = written.stamp();
        drop(written.begin(inode, descriptor()));
        written.disown(|_| false);
        assert!(written.find(inode).is_none());
        assert!(written.release_all(before).is_empty(), "not covered yet");
        assert_eq!(written.count(), 1);
        assert_eq!(written.release_all(written.stamp()).len(), 1);
        assert_eq!(written.count(), 0);
    }
}
