//! All attributes of one inode at once, as a copy takes and gives them.

use super::marker::is_own;
use super::node::mtime;
use super::open::{Access, Opened};
use super::store::Store;
use crate::operation::{Errno as OurErrno, InodeId, XattrName};
use crate::wire::bulk::AllAttributes;
use bytes::Bytes;
use rustix::fs::{FileType, Stat, XattrFlags};
use rustix::io::{Errno, Result};

impl Store {
    /// Everything about an inode but its names and its data; of the extended attributes all but our own, which
    /// only a replicated directory itself has.
    ///
    /// # Errors
    /// `ESTALE` when the inode is unknown or gone, or what the kernel says.
    pub fn all_attributes(&self, inode: InodeId) -> std::result::Result<AllAttributes, OurErrno> {
        let node = self.open(inode, Access::Path)?;
        Ok(read_all(&node, self.is_root(inode))?)
    }

    /// Gives an inode exactly these attributes, the `atime` excepted: others that it has are removed. A file that
    /// is too long is cut, one that is too short gets a hole at its end.
    ///
    /// # Errors
    /// `EINVAL` when there is a size and the inode is no file, or none and it is one. `EOPNOTSUPP` when the file
    /// system takes the attributes and then has others. Otherwise what the kernel says. After an error the
    /// inode may have some of them.
    pub fn set_all_attributes(
        &self,
        inode: InodeId,
        attributes: &AllAttributes,
    ) -> std::result::Result<(), OurErrno> {
        let mut node = self.open(inode, Access::Path)?;
        let status = node.status()?;
        // Until it is dropped, no sync counts as covering the change of size.
        let writer;
        match (attributes.size, size(&status)) {
            (Some(wanted), Some(is)) if wanted != is => {
                writer = self.writer(inode)?;
                node = Opened {
                    descriptor: writer.descriptor.clone(),
                    access: Access::Write,
                };
                truncate(&node, wanted)?;
            }
            (Some(_), Some(_)) | (None, None) => {}
            (Some(_), None) | (None, Some(_)) => return Err(Errno::INVAL.into()),
        }
        let in_root = self.is_root(inode);
        Ok(give(&node, &status, attributes, in_root)?)
    }
}

fn read_all(node: &Opened, is_root: bool) -> Result<AllAttributes> {
    let status = node.status()?;
    let mut xattrs = Vec::new();
    for name in attribute_names(node, is_root)? {
        match node.xattr(name.as_bytes()) {
            Ok(value) => xattrs.push((name, Bytes::from(value))),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(AllAttributes {
        size: size(&status),
        mode: status.st_mode & 0o7777,
        uid: status.st_uid,
        gid: status.st_gid,
        mtime: mtime(&status),
        xattrs,
    })
}

/// Owner first, because it drops set-id bits and capabilities; then the extended attributes, because an ACL
/// changes the mode; `mtime` last. What is right already is left alone: most often that is everything.
fn give(node: &Opened, before: &Stat, wanted: &AllAttributes, is_root: bool) -> Result<()> {
    if (before.st_uid, before.st_gid) != (wanted.uid, wanted.gid) {
        node.set_owner(Some(wanted.uid), Some(wanted.gid))?;
    }
    give_xattrs(node, &wanted.xattrs, is_root)?;
    let is_symlink = FileType::from_raw_mode(before.st_mode) == FileType::Symlink;
    let now = node.status()?;
    if !is_symlink && now.st_mode & 0o7777 != wanted.mode {
        node.set_mode(wanted.mode)?;
    }
    if mtime(&now) != wanted.mtime {
        node.set_times(None, Some(wanted.mtime))?;
    }
    let mut result = read_all(node, is_root)?;
    if is_symlink {
        result.mode = wanted.mode;
    }
    let mut xattrs: Vec<_> = wanted.xattrs.iter().collect();
    xattrs.sort_unstable();
    result.xattrs.sort_unstable();
    let same_xattrs = result.xattrs.iter().eq(xattrs);
    result.xattrs.clone_from(&wanted.xattrs);
    if same_xattrs && result == *wanted {
        return Ok(());
    }
    // A file system that takes such a call and forgets it cannot hold a copy.
    Err(Errno::OPNOTSUPP)
}

fn give_xattrs(node: &Opened, wanted: &[(XattrName, Bytes)], is_root: bool) -> Result<()> {
    let present = attribute_names(node, is_root)?;
    for name in &present {
        if !wanted.iter().any(|(other, _)| other == name) {
            node.clear_xattr(name.as_bytes())?;
        }
    }
    let set = |name: &XattrName, value: &[u8]| node.set_xattr(name.as_bytes(), value, XattrFlags::empty());
    let differing = wanted.iter().try_for_each(|(name, value)| {
        if present.contains(name) && node.xattr(name.as_bytes())? == *value {
            return Ok(());
        }
        set(name, value)
    });
    match differing {
        // What fits an inode depends on where each lies in it. In the order in which the source lists them, from
        // an empty start, they lie as there.
        Err(Errno::NOSPC) => {
            for name in attribute_names(node, is_root)? {
                node.clear_xattr(name.as_bytes())?;
            }
            wanted.iter().try_for_each(|(name, value)| set(name, value))
        }
        result => result,
    }
}

/// The names of the extended attributes but our own.
pub(super) fn attribute_names(node: &Opened, is_root: bool) -> Result<Vec<XattrName>> {
    let list = match node.xattr_names() {
        Ok(list) => list,
        // A file system without attributes has none.
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(errno) => return Err(errno),
    };
    list.split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !is_own(is_root, name))
        .map(|name| XattrName::new(name).map_err(|_| Errno::IO))
        .collect()
}

fn size(status: &Stat) -> Option<u64> {
    let is_file = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
    is_file.then_some(status.st_size.cast_unsigned())
}

fn truncate(node: &Opened, size: u64) -> Result<()> {
    loop {
        match rustix::fs::ftruncate(node.fd(), size) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
