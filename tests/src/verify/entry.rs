//! What one name stands for, and how two of them differ.

use super::{Options, RESERVED_ATTRIBUTES};
use crate::error::{Attempt, Result};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{AtFlags, FileType, Stat};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One thing that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Below the two roots.
    pub path: PathBuf,
    /// What differs, and both values.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.path.as_os_str().is_empty();
        // Debug form: a name may hold newlines and bytes that are no text.
        let path = if root { Path::new(".") } else { &self.path };
        write!(f, "{path:?}: {}", self.what)
    }
}

/// Everything about an inode but its data and its names.
#[derive(Debug)]
pub(super) struct Entry {
    pub kind: FileType,
    pub size: u64,
    pub links: u64,
    /// Device and inode number: tells hard links of one side from each other.
    pub identity: (u64, u64),
    mode: u32,
    owner: (u32, u32),
    rdev: u64,
    mtime: (i64, u64),
    target: Option<OsString>,
    attributes: BTreeMap<OsString, Vec<u8>>,
}

impl Entry {
    /// Reads `name` in an open directory; `.` is the directory itself.
    pub fn read(directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<Self> {
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).on("look at", path)?;
        Self::with(stat, directory, name, path)
    }

    #[expect(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        reason = "the fields of stat have other types on other machines"
    )]
    fn with(stat: Stat, directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<Self> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let target = if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(directory, name, Vec::new()).on("read the link", path)?;
            Some(OsString::from_vec(target.into_bytes()))
        } else {
            None
        };
        Ok(Entry {
            kind,
            size: stat.st_size as u64,
            links: stat.st_nlink as u64,
            identity: (stat.st_dev, stat.st_ino),
            mode: stat.st_mode & 0o7777,
            owner: (stat.st_uid, stat.st_gid),
            rdev: stat.st_rdev,
            mtime: (stat.st_mtime.into(), stat.st_mtime_nsec as u64),
            target,
            attributes: attributes(directory, name, path)?,
        })
    }

    /// All differences to the other side's, but for data and names.
    pub fn differences(&self, other: &Entry, options: Options) -> Vec<String> {
        let mut found = Vec::new();
        if self.kind != other.kind {
            // Nothing else is comparable then.
            return vec![format!("type {:?} and {:?}", self.kind, other.kind)];
        }
        if self.mode != other.mode {
            found.push(format!("mode {:04o} and {:04o}", self.mode, other.mode));
        }
        if self.owner != other.owner {
            let ((uid, gid), (other_uid, other_gid)) = (self.owner, other.owner);
            found.push(format!("owner {uid}:{gid} and {other_uid}:{other_gid}"));
        }
        // What a directory's size and link count are is its file system's own affair.
        if self.kind != FileType::Directory {
            if self.size != other.size {
                found.push(format!("size {} and {}", self.size, other.size));
            }
            if self.links != other.links {
                found.push(format!("link count {} and {}", self.links, other.links));
            }
        }
        if matches!(self.kind, FileType::BlockDevice | FileType::CharacterDevice) && self.rdev != other.rdev {
            found.push(format!("device {:#x} and {:#x}", self.rdev, other.rdev));
        }
        if self.target != other.target {
            found.push(format!("link target {:?} and {:?}", self.target, other.target));
        }
        if options.mtime && self.mtime != other.mtime {
            let ((s, ns), (other_s, other_ns)) = (self.mtime, other.mtime);
            found.push(format!("mtime {s}.{ns:09} and {other_s}.{other_ns:09}"));
        }
        found.extend(attribute_differences(&self.attributes, &other.attributes));
        found
    }
}

/// ACLs are attributes of the system's own name space, and compared as such.
fn attribute_differences(
    first: &BTreeMap<OsString, Vec<u8>>,
    second: &BTreeMap<OsString, Vec<u8>>,
) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = first.keys().chain(second.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| match (first.get(name), second.get(name)) {
            (Some(one), Some(other)) if one == other => None,
            (Some(_), Some(_)) => Some(format!("value of attribute {name:?}")),
            (Some(_), None) => Some(format!("attribute {name:?} only on the first side")),
            (None, _) => Some(format!("attribute {name:?} only on the second side")),
        })
        .collect()
}

/// Through the magic link of the directory's descriptor: there is no `lgetxattrat` in older kernels.
fn attributes(directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let mut reach = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    reach.extend_from_slice(name.as_bytes());
    let reach = CString::new(reach).on("name", path)?;
    let list = match sized(|buffer| rustix::fs::llistxattr(&reach, buffer)) {
        Ok(list) => list,
        // A file system without attributes has none.
        Err(rustix::io::Errno::OPNOTSUPP) => Vec::new(),
        Err(error) => return Err(error).on("list the attributes of", path),
    };
    let is_root = path.as_os_str().is_empty();
    let is_own = |name: &[u8]| is_root && name.starts_with(RESERVED_ATTRIBUTES);
    let mut attributes = BTreeMap::new();
    for name in list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !is_own(name))
    {
        let value = sized(|buffer| rustix::fs::lgetxattr(&reach, name, buffer)).attempt(|| {
            format!(
                "read attribute {:?} of {}",
                OsStr::from_bytes(name),
                path.display()
            )
        })?;
        attributes.insert(OsString::from_vec(name.to_vec()), value);
    }
    Ok(attributes)
}

/// Reads something whose size is at most what the kernel allows for attributes and their lists.
fn sized(mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    const BYTES_MAX: usize = 64 << 10;
    let mut buffer = vec![0; 1024];
    let length = match read(&mut buffer) {
        Err(rustix::io::Errno::RANGE) => {
            buffer = vec![0; BYTES_MAX];
            read(&mut buffer)?
        }
        other => other?,
    };
    buffer.truncate(length);
    Ok(buffer)
}
