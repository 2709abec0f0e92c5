//! Directories as the kernel reads them, with and without attributes.

use super::attributes;
use super::errno;
use super::inode::{Inodes, reply_generation};
use super::tree::{TTL, Tree, seen};
use crate::backing::{Directory, Entry, Found};
use crate::operation::{Errno, InodeId, Name};
use fuser::{FileType, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use rustix::io::Errno as System;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

/// How often a name is looked up again when operations on its directory overlap the look-up. The kernel's
/// lock on the directory keeps them away while it is read, so once is rare already.
const ATTEMPTS_MAX: u32 = 16;

/// An open directory.
pub struct Listing {
    inode: InodeId,
    node: INodeNo,
    directory: Directory,
}

impl Tree {
    /// Opens a directory for [`Tree::list`] and [`Tree::list_with_attributes`].
    pub fn open_listing(&self, node: INodeNo) -> Result<Listing, Errno> {
        let inode = self.inodes.inode(node)?;
        Ok(Listing {
            inode,
            node,
            directory: self.store.open_directory(inode)?,
        })
    }

    /// `readdir`: names, types and numbers.
    pub fn list(&self, listing: &Listing, offset: u64, mut reply: ReplyDirectory) {
        let read = listing.directory.read(offset, |entry| {
            let name = OsStr::from_bytes(entry.name);
            let full = reply.add(
                INodeNo(number(&self.inodes, listing, &entry)),
                entry.next,
                kind(&entry),
                name,
            );
            if full {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match read {
            Ok(()) => reply.ok(),
            Err(errno) => self.fail(errno, |errno| reply.error(errno::reply(errno))),
        }
    }

    /// `readdirplus`: each entry is a look-up as well.
    pub fn list_with_attributes(&self, listing: &Listing, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut added = false;
        let mut failed = None;
        let read = listing.directory.read(offset, |entry| {
            match self.add_with_attributes(listing, &entry, &mut reply) {
                Ok(Added::Yes) => {
                    added = true;
                    ControlFlow::Continue(())
                }
                Ok(Added::Full) => ControlFlow::Break(()),
                // Gone meanwhile, or not ours to show.
                Ok(Added::Skipped) => ControlFlow::Continue(()),
                Err(errno) => {
                    failed = Some(errno);
                    ControlFlow::Break(())
                }
            }
        });
        match read.err().or(failed) {
            // What was added was counted, so it must be sent; the next call meets the error again.
            Some(errno) if !added => self.fail(errno, |errno| reply.error(errno::reply(errno))),
            _ => reply.ok(),
        }
    }

    fn add_with_attributes(
        &self,
        listing: &Listing,
        entry: &Entry<'_>,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<Added, Errno> {
        let shown = OsStr::from_bytes(entry.name);
        if entry.name == b"." || entry.name == b".." {
            // The kernel takes number and type from these two, and counts no look-up.
            let status = self.store.status(listing.inode)?;
            let attributes = attributes::of(&status, number(&self.inodes, listing, entry));
            let full = reply.add(
                attributes.ino,
                entry.next,
                shown,
                &TTL,
                &attributes,
                fuser::Generation(0),
            );
            return Ok(if full { Added::Full } else { Added::Yes });
        }
        let name = Name::new(entry.name).map_err(errno::name)?;
        let Some((found, node)) = self.look_up_for_listing(listing.inode, &name)? else {
            return Ok(Added::Skipped);
        };
        let attributes = attributes::of(&found.status, node);
        if reply.add(
            attributes.ino,
            entry.next,
            shown,
            &TTL,
            &attributes,
            reply_generation(&found.handle),
        ) {
            self.forget(&[(attributes.ino, 1)]);
            return Ok(Added::Full);
        }
        Ok(Added::Yes)
    }

    /// Counts a look-up. `None` when there is nothing to show under this name.
    fn look_up_for_listing(&self, directory: InodeId, name: &Name) -> Result<Option<(Found, u64)>, Errno> {
        for _ in 0..ATTEMPTS_MAX {
            let ticket = self.replicator.begin_lookup(directory);
            let found = match self.store.look_up(directory, name) {
                Ok(found) => found,
                Err(errno) if is_absent(errno) => return Ok(None),
                Err(errno) => return Err(errno),
            };
            if self.refuse_names_on_both_sides(directory, name, &found).is_err() {
                return Ok(None);
            }
            let known = self.admit(&found);
            if self
                .replicator
                .looked_up(ticket, known.inode, name, seen(&found))
                .is_ok()
            {
                return Ok(Some((found, known.node)));
            }
            self.forget(&[(INodeNo(known.node), 1)]);
        }
        Err(errno::system(System::STALE))
    }
}

enum Added {
    Yes,
    Full,
    Skipped,
}

/// Removed since it was listed, or a mount point.
fn is_absent(errno: Errno) -> bool {
    [System::NOENT, System::XDEV]
        .iter()
        .any(|absent| absent.raw_os_error() == errno.0)
}

/// What an entry shows as its inode number. The root's parent is outside the mount.
fn number(inodes: &Inodes, listing: &Listing, entry: &Entry<'_>) -> u64 {
    match entry.name {
        b"." => listing.node.0,
        b".." if listing.node == INodeNo::ROOT => listing.node.0,
        _ => inodes.node(entry.ino),
    }
}

fn kind(entry: &Entry<'_>) -> FileType {
    attributes::kind(entry.kind.as_raw_mode())
}
