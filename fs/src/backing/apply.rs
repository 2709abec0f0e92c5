//! [`Store::apply`]: runs one operation, the same way on both nodes. What changes one inode's attributes is here.

use super::marker::is_own;
use super::node::CAPABILITY;
use super::open::{Access, Opened};
use super::refusal::Failure;
use super::store::Store;
use crate::operation::{Applied, Attributes, InodeId, Operation, Outcome, XattrMode, XattrName};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

impl Store {
    /// Applies `operation` exactly as far as it says, or tells why not. Blocks for as long as the disk takes.
    ///
    /// The caller sees to the order: nothing else may touch the operation's inodes meanwhile, except that a
    /// `Sync` or `Checkpoint` may run beside anything.
    pub fn apply(&self, operation: &Operation) -> Outcome {
        match self.with_leftovers_out_of_the_way(operation, || self.run(operation)) {
            Ok(applied) => Outcome::Applied(applied),
            Err(failure) => failure.into(),
        }
    }

    fn run(&self, operation: &Operation) -> Result<Applied, Failure> {
        match operation {
            Operation::Bind {
                inode,
                parent,
                name,
                handle,
            } => self.bind(*inode, *parent, name, handle),
            Operation::Create(create) => self.create(create),
            Operation::Link {
                inode,
                parent,
                name,
                time,
            } => done(self.link(*inode, *parent, name, *time)),
            Operation::Unlink(unlink) => done(self.unlink(unlink)),
            Operation::Rename(rename) => done(self.rename(rename)),
            Operation::Write {
                inode,
                offset,
                data,
                time,
                mode,
            } => self.write(*inode, *offset, data, *time, *mode),
            Operation::SetAttributes { inode, attributes } => done(self.set_attributes(*inode, attributes)),
            Operation::Fallocate {
                inode,
                mode,
                offset,
                length,
                time,
                set_mode,
            } => done(self.fallocate(*inode, *mode, *offset, *length, *time, *set_mode)),
            Operation::CopyRange {
                source,
                source_offset,
                target,
                target_offset,
                length,
                time,
                set_mode,
            } => {
                let from = (*source, *source_offset);
                let to = (*target, *target_offset);
                self.copy_range(from, to, *length, *time, *set_mode)
            }
            Operation::SetXattr {
                inode,
                name,
                value,
                mode,
                set_mode,
            } => done(self.set_xattr(*inode, name, value, *mode, *set_mode)),
            Operation::RemoveXattr { inode, name } => done(self.remove_xattr(*inode, name)),
            Operation::Sync { inode, data_only } => done(self.sync(*inode, *data_only)),
            Operation::Checkpoint => done(self.checkpoint().map_err(Failure::Failed)),
        }
    }

    /// Size first, because it changes times and drops capabilities; owner before mode, because it drops set-id
    /// bits; times last.
    fn set_attributes(&self, inode: InodeId, attributes: &Attributes) -> Result<(), Failure> {
        let mut changed = false;
        let mut step = |result: Result<(), Errno>| {
            result.map_err(|errno| Failure::of(errno, changed))?;
            changed = true;
            Ok::<(), Failure>(())
        };
        // The writer lives until the times are set: it is what the next sync has to cover.
        let writer = match attributes.size {
            Some(_) => Some(self.writer(inode)?),
            None => None,
        };
        let node = match &writer {
            Some(writer) => Opened {
                descriptor: writer.descriptor.clone(),
                access: Access::Write,
            },
            None => self.open(inode, Access::Path)?,
        };
        let mut mtime = attributes.mtime;
        if let Some(size) = attributes.size {
            // A change of size without a time leaves the time; ftruncate(2) would take this node's clock.
            if mtime.is_none() {
                mtime = Some(super::node::mtime(&node.status().map_err(Failure::unchanged)?));
            }
            step(rustix::fs::ftruncate(node.fd(), size))?;
        }
        if attributes.uid.is_some() || attributes.gid.is_some() {
            step(node.set_owner(attributes.uid, attributes.gid))?;
        }
        if let Some(mode) = attributes.mode {
            step(node.set_mode(mode))?;
        }
        if attributes.drop_capability {
            step(node.clear_xattr(CAPABILITY))?;
        }
        if attributes.atime.is_some() || mtime.is_some() {
            step(node.set_times(attributes.atime, mtime))?;
        }
        Ok(())
    }

    fn set_xattr(
        &self,
        inode: InodeId,
        name: &XattrName,
        value: &[u8],
        mode: XattrMode,
        set_mode: Option<u32>,
    ) -> Result<(), Failure> {
        self.not_own(inode, name)?;
        let node = self.open(inode, Access::Path)?;
        let flags = match mode {
            XattrMode::Set => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        node.set_xattr(name.as_bytes(), value, flags)
            .map_err(Failure::unchanged)?;
        match set_mode {
            Some(mode) => node.set_mode(mode).map_err(Failure::midway),
            None => Ok(()),
        }
    }

    fn remove_xattr(&self, inode: InodeId, name: &XattrName) -> Result<(), Failure> {
        self.not_own(inode, name)?;
        let node = self.open(inode, Access::Path)?;
        node.remove_xattr(name.as_bytes()).map_err(Failure::unchanged)
    }

    fn not_own(&self, inode: InodeId, name: &XattrName) -> Result<(), Failure> {
        if is_own(self.is_root(inode), name.as_bytes()) {
            return Err(Failure::Refused(Errno::PERM.into()));
        }
        Ok(())
    }
}

fn done(result: Result<(), Failure>) -> Result<Applied, Failure> {
    result.map(|()| Applied::default())
}
