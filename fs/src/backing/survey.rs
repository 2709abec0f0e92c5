//! Looking at nodes by their handles, as a verification does on both copies: what they are, and sums of their data.
//!
//! Nothing is learnt, nothing is changed, and no number is needed.

use super::blocks::{is_zero, segments};
use super::node::mtime;
use super::open::{Access, Opened};
use super::read::Directory;
use super::store::{Store, open_name};
use super::walk::is_reserved;
use super::whole::attribute_names;
use crate::dirty::store::Saved;
use crate::operation::{Errno as OurErrno, InodeId, Name, NodeKind};
use crate::record::split_brain::Change;
use crate::wire::bulk::{BLOCK_BYTES, Sum};
use crate::wire::survey::{Facts, Seen, Sight, Spot};
use bytes::Bytes;
use rustix::fd::AsFd;
use rustix::fs::{Advice, FileType, OFlags};
use rustix::io::{Errno, Result};
use std::num::NonZeroU64;
use std::ops::ControlFlow;

/// About so many bytes of nodes are told at once.
const SIGHTS_BYTES_MAX: usize = 512 << 10;
/// What a node takes without its name, link target and attributes.
const SIGHT_BYTES: usize = 256;

impl Store {
    /// Where a known inode is to be found; none when it is not known.
    pub fn spot(&self, inode: InodeId) -> Option<Spot> {
        let (root, handle) = self.place(inode)?;
        let handle = (!self.is_root(inode)).then_some(handle);
        let root = root as u32;
        Some(Spot { root, handle })
    }

    /// The names in a directory, but the dots and the reserved one.
    ///
    /// # Errors
    /// `ESTALE` when the directory is gone, `EUCLEAN` for a name that is none, or what the kernel says.
    pub fn names_at(
        &self,
        directory: &Spot,
        mut take: impl FnMut(Name),
    ) -> std::result::Result<(), OurErrno> {
        let opened = self.open_spot(directory)?;
        let descriptor = super::open::open_directory(&opened.descriptor)?;
        let mut wrong = false;
        Directory::over(descriptor, directory.handle.is_none()).read(0, |entry| {
            if !matches!(entry.name, b"." | b"..") {
                match Name::new(entry.name) {
                    Ok(name) => take(name),
                    // No file system gives one; a damaged disk may.
                    Err(_) => wrong = true,
                }
            }
            ControlFlow::Continue(())
        })?;
        if wrong {
            return Err(Errno::UCLEAN.into());
        }
        Ok(())
    }

    /// What is behind these names of a directory, in their order: as many as fit an answer, but at least one.
    ///
    /// # Errors
    /// `ESTALE` when the directory is gone, or what the kernel says.
    pub fn survey(&self, directory: &Spot, names: &[Name]) -> std::result::Result<Vec<Sight>, OurErrno> {
        let opened = self.open_spot(directory)?;
        let (mut sights, mut bytes) = (Vec::with_capacity(names.len()), 0);
        for name in names {
            if bytes > SIGHTS_BYTES_MAX {
                break;
            }
            let sight = self.sight(directory, &opened, name)?;
            bytes += bytes_of(&sight);
            sights.push(sight);
        }
        Ok(sights)
    }

    /// What a node is. [`Sight::Vacant`] when it is gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn look_at(&self, spot: &Spot) -> std::result::Result<Sight, OurErrno> {
        match self
            .open_spot(spot)
            .and_then(|opened| seen(&opened, spot.handle.is_none()))
        {
            Ok(seen) => Ok(Sight::Node(Box::new(seen))),
            Err(Errno::STALE) => Ok(Sight::Vacant),
            Err(errno) => Err(errno.into()),
        }
    }

    /// How much a map of this node says was changed.
    pub fn amount(&self, saved: &Saved, extent_bytes: NonZeroU64) -> Change {
        saved.amount(extent_bytes, |node| {
            self.room_of(&Spot {
                root: node.root,
                handle: Some(node.handle.clone()),
            })
        })
    }

    /// How much of the disk a file takes; 0 of anything else, and of what is gone or cannot be asked.
    fn room_of(&self, spot: &Spot) -> u64 {
        let status = self.open_spot(spot).and_then(|opened| opened.status());
        let is_file =
            |status: &rustix::fs::Stat| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
        status
            .ok()
            .filter(is_file)
            .map_or(0, |status| (status.st_blocks as u64).saturating_mul(512))
    }

    fn sight(&self, directory: &Spot, opened: &Opened, name: &Name) -> Result<Sight> {
        if is_reserved(directory.handle.is_none(), name.as_bytes()) {
            return Ok(Sight::Vacant);
        }
        let found = match open_name(opened.fd(), name.as_bytes()) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(Sight::Vacant),
            Err(Errno::XDEV) => return Ok(Sight::Mount),
            Err(errno) => return Err(errno),
        };
        if found.status()?.st_dev != self.root(directory.root as usize).device {
            return Ok(Sight::Mount);
        }
        Ok(Sight::Node(Box::new(seen(&found, false)?)))
    }

    /// The sums of a range of a file, one for each block of [`BLOCK_BYTES`] that begins within it, as far as the file
    /// reaches; none for a block that is nothing but zeroes or hole. `offset` is where a block begins.
    ///
    /// # Errors
    /// `ESTALE` when the file is gone, or what the kernel says.
    pub fn sums(
        &self,
        file: &Spot,
        offset: u64,
        length: u64,
    ) -> std::result::Result<Vec<Option<Sum>>, OurErrno> {
        if !offset.is_multiple_of(BLOCK_BYTES) {
            return Err(Errno::INVAL.into());
        }
        let file = self.open_spot(file)?.reopen(Access::Read)?;
        let size = file.status()?.st_size.cast_unsigned();
        let end = offset.saturating_add(length).min(size);
        if let Some(length) = NonZeroU64::new(end.saturating_sub(offset)) {
            rustix::fs::fadvise(file.fd(), offset, Some(length), Advice::WillNeed)?;
        }
        let mut data = segments(&file, offset, length)?
            .into_iter()
            .filter(|segment| segment.is_data)
            .peekable();
        let mut sums = Vec::new();
        let mut buffer = vec![0; BLOCK_BYTES as usize];
        let mut at = offset;
        while at < end {
            let block = &mut buffer[..BLOCK_BYTES.min(end - at) as usize];
            while data.next_if(|segment| segment.end() <= at).is_some() {}
            let holds_data = data.peek().is_some_and(|one| one.offset < at + BLOCK_BYTES);
            let filled = if holds_data { read(&file, at, block)? } else { 0 };
            let block = &block[..filled];
            sums.push((!is_zero(block)).then(|| Sum::of(block)));
            at += BLOCK_BYTES;
        }
        Ok(sums)
    }

    /// True when this range of a file holds no data. What cannot be told holds some.
    pub fn is_hole(&self, file: &Spot, offset: u64, length: u64) -> bool {
        let looked = self
            .open_spot(file)
            .and_then(|opened| opened.reopen(Access::Read));
        let found = looked.and_then(|file| segments(&file, offset, length));
        found.is_ok_and(|found| !found.is_empty() && found.iter().all(|segment| !segment.is_data))
    }

    pub(super) fn open_spot(&self, spot: &Spot) -> Result<Opened> {
        let Some(root) = self.roots().get(spot.root as usize) else {
            return Err(Errno::INVAL);
        };
        let Some(handle) = &spot.handle else {
            return Ok(root.node().clone());
        };
        let descriptor = super::handle::open(root.mount.as_fd(), handle.kind, &handle.bytes, OFlags::PATH)?;
        let opened = Opened::new(descriptor, Access::Path);
        // Something may still hold what has no name any more.
        if opened.status()?.st_nlink == 0 {
            return Err(Errno::STALE);
        }
        Ok(opened)
    }
}

/// Everything about a node. A value that changes meanwhile is read as it was or as it will be.
fn seen(opened: &Opened, is_root: bool) -> Result<Seen> {
    let status = opened.status()?;
    let kind = match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => NodeKind::File,
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => NodeKind::Symlink(Bytes::from(opened.link_target()?)),
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::CharacterDevice => NodeKind::CharacterDevice(status.st_rdev),
        FileType::BlockDevice => NodeKind::BlockDevice(status.st_rdev),
        FileType::Unknown => return Err(Errno::UCLEAN),
    };
    let mut xattrs = Vec::new();
    for name in attribute_names(opened, is_root)? {
        match opened.xattr(name.as_bytes()) {
            Ok(value) => xattrs.push((name, Sum::of(&value))),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    xattrs.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(Seen {
        handle: opened.handle()?,
        facts: Facts {
            links: match kind {
                NodeKind::Directory => 0,
                _ => links(&status),
            },
            size: (kind == NodeKind::File).then_some(status.st_size.cast_unsigned()),
            mode: match kind {
                NodeKind::Symlink(_) => 0,
                _ => status.st_mode & 0o7777,
            },
            kind,
            uid: status.st_uid,
            gid: status.st_gid,
            mtime: mtime(&status),
            xattrs,
        },
    })
}

#[allow(
    clippy::useless_conversion,
    reason = "the field has another type on other machines"
)]
fn links(status: &rustix::fs::Stat) -> u64 {
    status.st_nlink.into()
}

fn bytes_of(sight: &Sight) -> usize {
    match sight {
        Sight::Vacant | Sight::Mount => 1,
        Sight::Node(seen) => {
            let target = match &seen.facts.kind {
                NodeKind::Symlink(target) => target.len(),
                _ => 0,
            };
            let xattrs = seen.facts.xattrs.iter();
            let xattrs = xattrs.map(|(name, _)| name.as_bytes().len() + size_of::<Sum>() + 2);
            SIGHT_BYTES + target + xattrs.sum::<usize>()
        }
    }
}

/// Fewer bytes only where the file was cut meanwhile.
fn read(file: &Opened, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file.fd(), &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}
