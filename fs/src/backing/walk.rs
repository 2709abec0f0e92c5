//! What lies in a replicated directory as a whole, and the one entry of it that is ours.

use super::error::BackingError;
use super::store::Store;
use rustix::fs::RawDir;
use rustix::io::Errno;

/// The entry of each replicated directory's root that is never shown, shipped or verified.
pub const RESERVED: &[u8] = b".sidekick";
/// Made by `mkfs` in the root of ext file systems; no content.
const LOST_AND_FOUND: &[u8] = b"lost+found";

const LISTING_BYTES: usize = 32 << 10;

/// True for [`RESERVED`] in the root of a replicated directory; elsewhere that is a name like any other.
pub fn is_reserved(in_root: bool, name: &[u8]) -> bool {
    in_root && name == RESERVED
}

impl Store {
    /// True when directory `root` holds no entry but our own and an empty file system's `lost+found`.
    pub fn is_empty(&self, root: usize) -> Result<bool, BackingError> {
        let root = self.root_checked(root)?;
        let fail = |errno: Errno| BackingError::Directory {
            attempt: "list",
            directory: root.name(),
            source: errno,
        };
        let directory = super::open::open_directory(&root.node().descriptor).map_err(fail)?;
        let mut buffer = Vec::with_capacity(LISTING_BYTES);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            match entry.map_err(fail)?.file_name().to_bytes() {
                b"." | b".." | RESERVED | LOST_AND_FOUND => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}
