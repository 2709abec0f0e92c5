//! Which module a replicated directory belongs to: an extended attribute of the directory itself.
//!
//! A copy removes what the source does not have. The marker proves that this directory is meant: one with another
//! module's marker, or with none and something in it, is somebody else's, and the path mistyped.

use super::error::BackingError;
use super::excluded::LINKED;
use super::store::Store;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// What our own attributes begin with. Those of a replicated directory itself are never shown, shipped or verified.
const OWN: &[u8] = b"trusted.sidekick.";
const MODULE: &[u8] = b"trusted.sidekick.module";
/// The record's copy, see [`super::volume`].
pub(super) const RECORD: &[u8] = b"trusted.sidekick.record";

/// True for our own extended attributes of a replicated directory, and for the one that excluded inodes may have;
/// elsewhere those are attributes like any other.
pub(super) fn is_own(is_root: bool, name: &[u8]) -> bool {
    (is_root && name.starts_with(OWN)) || name == LINKED
}

impl Store {
    /// The module that directory `root` belongs to; `None` when it was never marked. What is no text is given
    /// with replacement characters: no module is called so.
    pub fn marker(&self, root: usize) -> Result<Option<String>, BackingError> {
        let root = self.root_checked(root)?;
        match root.node().xattr(MODULE) {
            Ok(module) => Ok(Some(String::from_utf8_lossy(&module).into_owned())),
            Err(Errno::NODATA) => Ok(None),
            Err(errno) => Err(BackingError::Directory {
                attempt: "read the module's marker of",
                directory: root.name(),
                source: errno,
            }),
        }
    }

    /// From now on directory `root` belongs to `module`; on disk when it succeeds.
    pub fn set_marker(&self, root: usize, module: &str) -> Result<(), BackingError> {
        let root = self.root_checked(root)?;
        root.node()
            .set_xattr(MODULE, module.as_bytes(), XattrFlags::empty())
            .and_then(|()| rustix::fs::fsync(&root.mount))
            .map_err(|errno| BackingError::Directory {
                attempt: "set the module's marker of",
                directory: root.name(),
                source: errno,
            })
    }
}
