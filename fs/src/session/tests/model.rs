//! A file system in memory with the same outcomes as the real store's.

use crate::hash::HashMap;
use crate::operation::{
    Applied, Errno, FileHandle, InodeId, Name, NodeKind, Operation, Outcome, RenameMode, Timestamp, XattrName,
};
use bytes::Bytes;
use std::collections::BTreeMap;

pub(super) const EIO: Errno = Errno(5);
pub(super) const ENOENT: Errno = Errno(2);
pub(super) const EEXIST: Errno = Errno(17);
pub(super) const ENOTDIR: Errno = Errno(20);
pub(super) const EISDIR: Errno = Errno(21);
pub(super) const ENOSPC: Errno = Errno(28);
pub(super) const ENOTEMPTY: Errno = Errno(39);
pub(super) const ENODATA: Errno = Errno(61);

/// One node's disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) inodes: HashMap<u64, Inode>,
    pub(super) known: HashMap<InodeId, u64>,
    pub(super) last: u64,
    /// No room for anything that needs some.
    pub(super) full: bool,
    /// A write without room is refused as a whole, instead of failing in its middle.
    pub(super) whole: bool,
    /// Every change fails.
    pub(super) broken: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) directory: bool,
    pub(super) links: u32,
    pub(super) entries: BTreeMap<Name, u64>,
    pub(super) data: Vec<u8>,
    pub(super) xattrs: BTreeMap<XattrName, Bytes>,
    pub(super) mode: u32,
    pub(super) mtime: i64,
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub(super) fn xattr_name(text: &str) -> XattrName {
    XattrName::new(text.as_bytes()).unwrap()
}

pub(super) fn time(at: i64) -> Timestamp {
    Timestamp {
        seconds: at,
        nanoseconds: 0,
    }
}

impl Model {
    /// A root with two directories of files, one of them with two names.
    pub(super) fn new() -> Self {
        let mut model = Model::default();
        let root = model.make(true);
        model.known.insert(InodeId(1), root);
        let mut files = Vec::new();
        for directory in ["d0", "d1"] {
            let inode = model.make(true);
            model.enter(root, name(directory), inode);
            for file in ["a", "b", "c"] {
                let made = model.make(false);
                model.enter(inode, name(file), made);
                files.push((inode, made));
            }
        }
        let (other, _) = files[5];
        model.enter(other, name("hard"), files[0].1);
        model
    }

    fn make(&mut self, directory: bool) -> u64 {
        self.last += 1;
        let inode = Inode {
            directory,
            mode: 0o644,
            ..Inode::default()
        };
        self.inodes.insert(self.last, inode);
        self.last
    }

    fn enter(&mut self, directory: u64, name: Name, inode: u64) {
        self.at(directory).entries.insert(name, inode);
        self.at(inode).links += 1;
    }

    fn at(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).unwrap()
    }

    pub(super) fn get(&self, inode: InodeId) -> Option<&Inode> {
        self.inodes.get(self.known.get(&inode)?)
    }

    /// Everything below the root, so that two models can be compared whatever their numbers are.
    pub(super) fn listing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut seen = HashMap::default();
        self.list(self.known[&InodeId(1)], "", &mut seen, &mut lines);
        lines
    }

    fn list(&self, inode: u64, path: &str, seen: &mut HashMap<u64, String>, lines: &mut Vec<String>) {
        let node = &self.inodes[&inode];
        if let Some(first) = seen.get(&inode) {
            lines.push(format!("{path} = {first}"));
            return;
        }
        seen.insert(inode, path.to_owned());
        let xattrs: Vec<_> = node.xattrs.iter().collect();
        lines.push(format!(
            "{path} dir={} links={} mode={:o} mtime={} {:?} {xattrs:?}",
            node.directory, node.links, node.mode, node.mtime, node.data
        ));
        for (name, inode) in &node.entries {
            self.list(*inode, &format!("{path}/{name}"), seen, lines);
        }
    }

    pub(super) fn would_refuse(&self, operation: &Operation) -> Option<Errno> {
        match self.clone().apply(operation) {
            Outcome::Refused(errno) | Outcome::Failed(errno) => Some(errno),
            Outcome::Applied(_) | Outcome::NotBound(_) => None,
        }
    }

    pub(super) fn apply(&mut self, operation: &Operation) -> Outcome {
        let needs_room = matches!(
            operation,
            Operation::Create(_)
                | Operation::Link { .. }
                | Operation::Rename(_)
                | Operation::Write { .. }
                | Operation::SetXattr { .. }
        );
        if self.broken && !matches!(operation, Operation::Bind { .. }) {
            return Outcome::Failed(EIO);
        }
        match self.change(operation, needs_room && self.full) {
            Ok(length) => Outcome::Applied(Applied {
                length,
                handle: match operation {
                    Operation::Bind { inode, .. } => self.handle(*inode),
                    Operation::Create(create) => self.handle(create.inode),
                    _ => None,
                },
            }),
            Err(outcome) => outcome,
        }
    }

    /// The handle of an inode that is known here, as this disk gives it.
    pub(super) fn handle(&self, inode: InodeId) -> Option<FileHandle> {
        self.known.get(&inode).map(|found| FileHandle {
            kind: 1,
            bytes: found.to_le_bytes().as_slice().into(),
        })
    }

    fn id(&self, inode: InodeId) -> Result<u64, Outcome> {
        self.known.get(&inode).copied().ok_or(Outcome::NotBound(inode))
    }

    fn child(&self, directory: u64, name: &Name) -> Option<u64> {
        self.inodes[&directory].entries.get(name).copied()
    }

    fn change(&mut self, operation: &Operation, full: bool) -> Result<u64, Outcome> {
        let refused = |errno| Err(Outcome::Refused(errno));
        match operation {
            Operation::Bind {
                inode, parent, name, ..
            } => {
                let directory = self.id(*parent)?;
                let found = self.child(directory, name).ok_or(Outcome::NotBound(*inode))?;
                self.known.insert(*inode, found);
            }
            Operation::Create(create) => {
                let directory = self.id(create.parent)?;
                if self.inodes[&directory].links == 0 && create.parent != InodeId(1) {
                    return refused(ENOENT);
                }
                if self.child(directory, &create.name).is_some() {
                    return refused(EEXIST);
                }
                if full {
                    return refused(ENOSPC);
                }
                let made = self.make(matches!(create.kind, NodeKind::Directory));
                self.enter(directory, create.name.clone(), made);
                self.at(made).mtime = create.time.seconds;
                self.at(directory).mtime = create.time.seconds;
                self.known.insert(create.inode, made);
            }
            Operation::Link {
                inode,
                parent,
                name,
                time,
            } => {
                let (found, directory) = (self.id(*inode)?, self.id(*parent)?);
                if self.inodes[&found].links == 0 {
                    return refused(ENOENT);
                }
                if self.child(directory, name).is_some() {
                    return refused(EEXIST);
                }
                if full {
                    return refused(ENOSPC);
                }
                self.enter(directory, name.clone(), found);
                self.at(directory).mtime = time.seconds;
            }
            Operation::Unlink(unlink) => {
                let directory = self.id(unlink.parent)?;
                let Some(found) = self.child(directory, &unlink.name) else {
                    return refused(ENOENT);
                };
                let victim = &self.inodes[&found];
                match (unlink.directory, victim.directory) {
                    (true, false) => return refused(ENOTDIR),
                    (false, true) => return refused(EISDIR),
                    (true, true) if !victim.entries.is_empty() => return refused(ENOTEMPTY),
                    _ => {}
                }
                self.at(directory).entries.remove(&unlink.name);
                self.at(found).links -= 1;
                self.at(directory).mtime = unlink.time.seconds;
            }
            Operation::Rename(rename) => {
                let source = self.id(rename.source_parent)?;
                let target = self.id(rename.target_parent)?;
                self.id(rename.moved)?;
                let Some(moved) = self.child(source, &rename.source_name) else {
                    return refused(ENOENT);
                };
                let there = self.child(target, &rename.target_name);
                match (rename.mode, there) {
                    (RenameMode::NoReplace, Some(_)) => return refused(EEXIST),
                    (RenameMode::Exchange, None) => return refused(ENOENT),
                    (RenameMode::Replace, Some(there)) => {
                        let (old, new) = (&self.inodes[&there], &self.inodes[&moved]);
                        match (new.directory, old.directory) {
                            (true, false) => return refused(ENOTDIR),
                            (false, true) => return refused(EISDIR),
                            (true, true) if !old.entries.is_empty() => return refused(ENOTEMPTY),
                            _ => {}
                        }
                    }
                    (RenameMode::Replace | RenameMode::NoReplace | RenameMode::Exchange, _) => {}
                }
                if full {
                    return refused(ENOSPC);
                }
                self.at(source).entries.remove(&rename.source_name);
                if let Some(there) = there {
                    if rename.mode == RenameMode::Exchange {
                        self.at(source).entries.insert(rename.source_name.clone(), there);
                    } else {
                        self.at(there).links -= 1;
                    }
                }
                self.at(target).entries.insert(rename.target_name.clone(), moved);
                self.at(source).mtime = rename.time.seconds;
                self.at(target).mtime = rename.time.seconds;
            }
            Operation::Write {
                inode,
                offset,
                data,
                time,
                ..
            } => {
                let found = self.id(*inode)?;
                let from = *offset as usize;
                if full && self.whole {
                    return refused(ENOSPC);
                }
                let node = self.at(found);
                let length = if full { data.len() / 2 } else { data.len() };
                if node.data.len() < from + length {
                    node.data.resize(from + length, 0);
                }
                node.data[from..from + length].copy_from_slice(&data[..length]);
                if full {
                    return Err(Outcome::Failed(ENOSPC));
                }
                if let Some(time) = time {
                    node.mtime = time.seconds;
                }
                return Ok(data.len() as u64);
            }
            Operation::SetAttributes { inode, attributes } => {
                let found = self.id(*inode)?;
                let node = self.at(found);
                if let Some(size) = attributes.size {
                    node.data.resize(size as usize, 0);
                }
                node.mode = attributes.mode.unwrap_or(node.mode);
                node.mtime = attributes.mtime.map_or(node.mtime, |time| time.seconds);
            }
            Operation::SetXattr {
                inode, name, value, ..
            } => {
                let found = self.id(*inode)?;
                if full {
                    return refused(ENOSPC);
                }
                self.at(found).xattrs.insert(name.clone(), value.clone());
            }
            Operation::RemoveXattr { inode, name } => {
                let found = self.id(*inode)?;
                if self.at(found).xattrs.remove(name).is_none() {
                    return refused(ENODATA);
                }
            }
            Operation::CopyRange {
                source,
                source_offset,
                target,
                target_offset,
                length,
                time,
                ..
            } => {
                let (from, to) = (self.id(*source)?, self.id(*target)?);
                let start = *source_offset as usize;
                let mut data = self.inodes[&from].data.clone();
                data.resize(data.len().max(start + *length as usize), 0);
                let piece = data[start..start + *length as usize].to_vec();
                let (node, at) = (self.at(to), *target_offset as usize);
                if node.data.len() < at + piece.len() {
                    node.data.resize(at + piece.len(), 0);
                }
                node.data[at..at + piece.len()].copy_from_slice(&piece);
                node.mtime = time.map_or(node.mtime, |time| time.seconds);
                return Ok(*length);
            }
            Operation::Sync { inode, .. } => {
                self.id(*inode)?;
            }
            Operation::Fallocate { inode, .. } => {
                self.id(*inode)?;
            }
            Operation::Checkpoint => {}
        }
        Ok(0)
    }
}
