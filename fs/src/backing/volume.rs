//! A replicated directory as the keeper of the record sees it: the place of the record's second copy.
//!
//! The copy is an extended attribute of the directory itself, beside the module's marker and hidden as that
//! is. It tells a volume that was restored, exchanged or not mounted from the one that the state directory
//! speaks of.

use super::error::BackingError;
use super::marker::RECORD;
use super::store::Root;
use rustix::fd::OwnedFd;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// One replicated directory, whatever is mounted over it.
pub struct Volume {
    root: Root,
}

impl Volume {
    /// `descriptor` is that of the directory, opened before anything was mounted over it.
    ///
    /// # Errors
    /// As [`super::Store::new`].
    pub fn open(descriptor: OwnedFd) -> Result<Self, BackingError> {
        let (root, _) = Root::open(descriptor)?;
        Ok(Volume { root })
    }

    /// The directory's path as far as it can be found out, for messages.
    pub fn name(&self) -> String {
        self.root.name()
    }

    /// The bytes that were set last; none when there never were any.
    pub fn record(&self) -> Result<Option<Vec<u8>>, BackingError> {
        match self.root.node().xattr(RECORD) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::NODATA) => Ok(None),
            Err(errno) => Err(self.failed("read the record of", errno)),
        }
    }

    /// Replaces the bytes; on disk when it succeeds.
    pub fn set_record(&self, bytes: &[u8]) -> Result<(), BackingError> {
        self.root
            .node()
            .set_xattr(RECORD, bytes, XattrFlags::empty())
            .and_then(|()| rustix::fs::fsync(&self.root.mount))
            .map_err(|errno| self.failed("write the record of", errno))
    }

    fn failed(&self, attempt: &'static str, errno: Errno) -> BackingError {
        BackingError::Directory {
            attempt,
            directory: self.root.name(),
            source: errno,
        }
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Volume").field(&self.name()).finish()
    }
}
