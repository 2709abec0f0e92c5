//! The source's files, as a copy reads them.

use crate::backing::{Above, Excluding, Found, Segment, Stat, Store};
use crate::operation::{Errno, FileHandle, InodeId, Name};
use crate::wire::bulk::AllAttributes;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// What a copy needs of the source's disk. In production it is [`Store`], whose methods of the same names these are.
pub trait Files: Sync {
    /// How many directories are replicated.
    fn directories(&self) -> usize;
    /// Where an inode lies, for people.
    fn path(&self, inode: InodeId) -> Option<PathBuf>;
    /// Its replicated directory, and its handle; none of one that is not known.
    fn place(&self, inode: InodeId) -> Option<(usize, FileHandle)>;
    /// As [`Store::look_up`].
    ///
    /// # Errors
    /// As there.
    fn look_up(&self, directory: InodeId, name: &Name) -> Result<Found, Errno>;
    /// As [`Store::status`].
    ///
    /// # Errors
    /// As there.
    fn status(&self, inode: InodeId) -> Result<Stat, Errno>;
    /// Gives `each` the names in a directory that are not excluded.
    ///
    /// # Errors
    /// What the kernel says.
    fn names(&self, directory: InodeId, each: &mut dyn FnMut(Name)) -> Result<(), Errno>;
    /// As [`Store::excluding_in`].
    ///
    /// # Errors
    /// As there.
    fn excluding(&self, directory: InodeId) -> Result<Option<Excluding<'_>>, Errno>;
    /// As [`Store::renames_reach_far`].
    fn renames_reach_far(&self, directory: InodeId) -> bool;
    /// As [`Store::link_target`].
    ///
    /// # Errors
    /// As there.
    fn link_target(&self, inode: InodeId) -> Result<Vec<u8>, Errno>;
    /// As [`Store::directory_place`].
    ///
    /// # Errors
    /// As there.
    fn directory_place(&self, directory: InodeId) -> Result<Option<Above>, Errno>;
    /// As [`Store::data_segments`].
    ///
    /// # Errors
    /// As there.
    fn data_segments(&self, inode: InodeId, offset: u64, length: u64) -> Result<Vec<Segment>, Errno>;
    /// As [`Store::settle`].
    ///
    /// # Errors
    /// As there.
    fn settle(&self, inode: InodeId, offset: u64, length: u64) -> Result<(), Errno>;
    /// As [`Store::read`].
    ///
    /// # Errors
    /// As there.
    fn read(&self, inode: InodeId, offset: u64, length: usize) -> Result<Bytes, Errno>;
    /// As [`Store::all_attributes`].
    ///
    /// # Errors
    /// As there.
    fn all_attributes(&self, inode: InodeId) -> Result<AllAttributes, Errno>;
}

impl Files for Store {
    fn directories(&self) -> usize {
        self.directories()
    }

    fn path(&self, inode: InodeId) -> Option<PathBuf> {
        self.path(inode)
    }

    fn place(&self, inode: InodeId) -> Option<(usize, FileHandle)> {
        self.place(inode)
    }

    fn look_up(&self, directory: InodeId, name: &Name) -> Result<Found, Errno> {
        self.look_up(directory, name)
    }

    fn status(&self, inode: InodeId) -> Result<Stat, Errno> {
        self.status(inode)
    }

    fn names(&self, directory: InodeId, each: &mut dyn FnMut(Name)) -> Result<(), Errno> {
        let listing = self.open_directory(directory)?;
        let excluding = self.excluding_in(directory)?;
        let mut failed = None;
        listing.read(0, |entry| {
            match self.excludes_entry(directory, excluding.as_ref(), &entry) {
                Ok(true) => {}
                // The dots are no names. Anything else that is none cannot be reached by an application either.
                Ok(false) => Name::new(entry.name).into_iter().for_each(&mut *each),
                Err(errno) => {
                    failed = Some(errno);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn excluding(&self, directory: InodeId) -> Result<Option<Excluding<'_>>, Errno> {
        self.excluding_in(directory)
    }

    fn renames_reach_far(&self, directory: InodeId) -> bool {
        self.renames_reach_far(directory)
    }

    fn link_target(&self, inode: InodeId) -> Result<Vec<u8>, Errno> {
        self.link_target(inode)
    }

    fn directory_place(&self, directory: InodeId) -> Result<Option<Above>, Errno> {
        self.directory_place(directory)
    }

    fn data_segments(&self, inode: InodeId, offset: u64, length: u64) -> Result<Vec<Segment>, Errno> {
        self.data_segments(inode, offset, length)
    }

    fn settle(&self, inode: InodeId, offset: u64, length: u64) -> Result<(), Errno> {
        self.settle(inode, offset, length)
    }

    fn read(&self, inode: InodeId, offset: u64, length: usize) -> Result<Bytes, Errno> {
        self.read(inode, offset, length)
    }

    fn all_attributes(&self, inode: InodeId) -> Result<AllAttributes, Errno> {
        self.all_attributes(inode)
    }
}
