//! What a process makes of a disk: numbers for inodes, and operations carried out as the real store does.

use super::disk::{ASIDE, CELL_BYTES, Change, Disk, Ino, Node, TOP, Tag, Tree};
use crate::backing::{Above, Found, Segment, Stat};
use crate::hash::HashMap;
use crate::operation::{
    Applied, Attributes, Errno, FileHandle, InodeId, Name, NodeKind, Operation, Outcome, RenameMode,
    Timestamp,
};
use crate::wire::bulk::{
    AllAttributes, By, Entry, Identify, Node as Wanted, Placed, Sum, ToSource, ToTarget,
};
use bytes::Bytes;
use rustix::fs::FileType;
use std::sync::OnceLock;

const EPERM: Errno = Errno(1);
pub(super) const ENOENT: Errno = Errno(2);
const EEXIST: Errno = Errno(17);
const ENOTDIR: Errno = Errno(20);
const EISDIR: Errno = Errno(21);
const EINVAL: Errno = Errno(22);
const ENOTEMPTY: Errno = Errno(39);
const ENODATA: Errno = Errno(61);
pub(super) const ESTALE: Errno = Errno(116);

/// The time that a change of the copy itself leaves, until the attributes come.
const COPY_TIME: i64 = -1;

/// The numbers that a process has given to inodes, or was told.
#[derive(Clone, Debug)]
pub(super) struct Known {
    inodes: HashMap<InodeId, Ino>,
    numbers: HashMap<Ino, InodeId>,
    next: u64,
}

pub(super) fn handle(ino: Ino) -> FileHandle {
    FileHandle {
        kind: 1,
        bytes: ino.0.to_le_bytes().as_slice().into(),
    }
}

pub(super) fn by_handle(handle: &FileHandle) -> Option<Ino> {
    Some(Ino(u64::from_le_bytes(handle.bytes.as_ref().try_into().ok()?)))
}

pub(super) fn time(seconds: i64) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds: 0,
    }
}

impl Known {
    pub(super) fn new() -> Self {
        let mut known = Known {
            inodes: HashMap::default(),
            numbers: HashMap::default(),
            next: 1,
        };
        known.learn(InodeId::root(0), TOP);
        known
    }

    pub(super) fn next(&mut self) -> InodeId {
        self.next += 1;
        InodeId(self.next)
    }

    pub(super) fn learn(&mut self, inode: InodeId, ino: Ino) {
        self.next = self.next.max(inode.0);
        self.inodes.insert(inode, ino);
        self.numbers.insert(ino, inode);
    }

    pub(super) fn ino(&self, inode: InodeId) -> Option<Ino> {
        self.inodes.get(&inode).copied()
    }

    pub(super) fn number(&self, ino: Ino) -> Option<InodeId> {
        self.numbers.get(&ino).copied()
    }

    /// As [`crate::backing::Store::adopt`].
    pub(super) fn adopt(&mut self, ino: Ino) -> InodeId {
        if let Some(inode) = self.number(ino) {
            return inode;
        }
        let inode = self.next();
        self.learn(inode, ino);
        inode
    }

    /// Learns it unless the inode has another number.
    fn claim(&mut self, inode: InodeId, ino: Ino) -> bool {
        match self.number(ino) {
            Some(other) => other == inode,
            None => {
                self.learn(inode, ino);
                true
            }
        }
    }

    pub(super) fn forget(&mut self, inodes: &[InodeId]) {
        for inode in inodes {
            if let Some(ino) = self.inodes.remove(inode)
                && self.numbers.get(&ino) == Some(inode)
            {
                self.numbers.remove(&ino);
            }
        }
    }

    fn find(&self, inode: InodeId) -> Result<Ino, Outcome> {
        self.ino(inode).ok_or(Outcome::NotBound(inode))
    }
}

/// Bytes whose cells hold these tags.
pub(super) fn bytes_of(tags: impl IntoIterator<Item = Tag>) -> Bytes {
    let mut bytes = Vec::new();
    for tag in tags {
        bytes.extend_from_slice(&tag.to_le_bytes().repeat(CELL_BYTES as usize / 4));
    }
    Bytes::from(bytes)
}

fn tags_of(offset: u64, data: &[u8]) -> Vec<(u64, Tag)> {
    assert_eq!(
        (offset % CELL_BYTES, data.len() as u64 % CELL_BYTES),
        (0, 0),
        "cells are written whole"
    );
    let tag = |cell: &[u8]| Tag::from_le_bytes([cell[0], cell[1], cell[2], cell[3]]);
    data.chunks(CELL_BYTES as usize)
        .enumerate()
        .map(|(at, cell)| (offset / CELL_BYTES + at as u64, tag(cell)))
        .collect()
}

/// What an operation is on this disk; or what becomes of it instead.
fn change_of(
    tree: &Tree,
    known: &Known,
    operation: &Operation,
    made: Ino,
) -> Result<Option<Change>, Outcome> {
    let refused = |errno| Err(Outcome::Refused(errno));
    let find = |inode: InodeId| {
        let ino = known.find(inode)?;
        // As a handle of what is gone.
        tree.get(ino)
            .map(|node| (ino, node))
            .ok_or(Outcome::NotBound(inode))
    };
    Ok(Some(match operation {
        Operation::Bind { .. }
        | Operation::Sync { .. }
        | Operation::Checkpoint
        | Operation::Fallocate { .. } => {
            return Ok(None);
        }
        Operation::Create(create) => {
            let (directory, node) = find(create.parent)?;
            if node.links == 0 {
                return refused(ENOENT);
            }
            if node.names.contains_key(&create.name) {
                return refused(EEXIST);
            }
            Change::Make {
                directory,
                name: create.name.clone(),
                ino: made,
                is_directory: matches!(create.kind, NodeKind::Directory),
                mode: create.mode,
                time: create.time.seconds,
            }
        }
        Operation::Link {
            inode,
            parent,
            name,
            time,
        } => {
            let ((ino, node), (directory, above)) = (find(*inode)?, find(*parent)?);
            if node.links == 0 || above.links == 0 {
                return refused(ENOENT);
            }
            if above.names.contains_key(name) {
                return refused(EEXIST);
            }
            Change::Link {
                ino,
                directory,
                name: name.clone(),
                time: time.seconds,
            }
        }
        Operation::Unlink(unlink) => {
            let (directory, node) = find(unlink.parent)?;
            let Some(victim) = node.names.get(&unlink.name).and_then(|ino| tree.get(*ino)) else {
                return refused(ENOENT);
            };
            match (unlink.directory, victim.is_directory) {
                (true, false) => return refused(ENOTDIR),
                (false, true) => return refused(EISDIR),
                (true, true) if !victim.names.is_empty() => return refused(ENOTEMPTY),
                _ => {}
            }
            Change::Unlink {
                directory,
                name: unlink.name.clone(),
                time: unlink.time.seconds,
            }
        }
        Operation::Rename(rename) => {
            let ((from, source), (to, target)) = (find(rename.source_parent)?, find(rename.target_parent)?);
            known.find(rename.moved)?;
            let Some(moved) = source.names.get(&rename.source_name).copied() else {
                return refused(ENOENT);
            };
            if target.links == 0 {
                return refused(ENOENT);
            }
            let there = target
                .names
                .get(&rename.target_name)
                .and_then(|ino| tree.get(*ino));
            let is_directory = tree.get(moved).is_some_and(|node| node.is_directory);
            match (rename.mode, there) {
                (RenameMode::NoReplace, Some(_)) => return refused(EEXIST),
                (RenameMode::Exchange, None) => return refused(ENOENT),
                (RenameMode::Replace, Some(there)) => match (is_directory, there.is_directory) {
                    (true, false) => return refused(ENOTDIR),
                    (false, true) => return refused(EISDIR),
                    (true, true) if !there.names.is_empty() => return refused(ENOTEMPTY),
                    _ => {}
                },
                _ => {}
            }
            if is_directory && tree.is_above(moved, to) {
                return refused(EINVAL);
            }
            Change::Rename {
                from,
                name: rename.source_name.clone(),
                to,
                new: rename.target_name.clone(),
                mode: rename.mode,
                time: rename.time.seconds,
            }
        }
        Operation::Write {
            inode,
            offset,
            data,
            time,
            ..
        } => {
            let cells = tags_of(*offset, data);
            let end = (offset + data.len() as u64) / CELL_BYTES;
            Change::Write {
                ino: find(*inode)?.0,
                cells,
                end,
                time: time.map(|time| time.seconds),
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
            let ((_, from), (ino, _)) = (find(*source)?, find(*target)?);
            let (first, at, count) = (
                source_offset / CELL_BYTES,
                target_offset / CELL_BYTES,
                length / CELL_BYTES,
            );
            let tag = |cell: u64| from.cells.get(&(first + cell)).copied().unwrap_or(0);
            let cells = (0..count).map(|cell| (at + cell, tag(cell))).collect();
            Change::Write {
                ino,
                cells,
                end: at + count,
                time: time.map(|time| time.seconds),
            }
        }
        Operation::SetAttributes {
            inode,
            attributes: Attributes {
                size, mode, mtime, ..
            },
        } => Change::Attributes {
            ino: find(*inode)?.0,
            size: size.map(|size| size / CELL_BYTES),
            mode: *mode,
            mtime: mtime.map(|mtime| mtime.seconds),
        },
        Operation::SetXattr {
            inode, name, value, ..
        } => Change::SetXattr {
            ino: find(*inode)?.0,
            name: name.clone(),
            value: value.clone(),
        },
        Operation::RemoveXattr { inode, name } => {
            let (ino, node) = find(*inode)?;
            if !node.xattrs.contains_key(name) {
                return refused(ENODATA);
            }
            Change::RemoveXattr {
                ino,
                name: name.clone(),
            }
        }
    }))
}

/// `EPERM` for the name of what is immutable.
fn is_kept(disk: &Disk, operation: &Operation) -> Result<(), Outcome> {
    match operation {
        Operation::Unlink(unlink) if disk.keeps(&unlink.name) => Err(Outcome::Refused(EPERM)),
        _ => Ok(()),
    }
}

/// What a disk would refuse an operation with, without changing anything.
pub(super) fn would_refuse(disk: &Disk, known: &Known, operation: &Operation) -> Option<Errno> {
    match is_kept(disk, operation).and_then(|()| change_of(&disk.now, known, operation, Ino(u64::MAX))) {
        Err(Outcome::Refused(errno) | Outcome::Failed(errno)) => Some(errno),
        _ => None,
    }
}

/// As [`crate::backing::Store::apply`].
pub(super) fn apply(disk: &mut Disk, known: &mut Known, operation: &Operation) -> Outcome {
    let made = match operation {
        Operation::Create(_) => disk.now.next(),
        _ => Ino(u64::MAX),
    };
    match is_kept(disk, operation).and_then(|()| change_of(&disk.now, known, operation, made)) {
        Ok(Some(change)) => disk.change(change),
        Ok(None) => {}
        Err(outcome) => return outcome,
    }
    let mut applied = Applied {
        length: operation.length(),
        handle: None,
    };
    match operation {
        Operation::Bind {
            inode, parent, name, ..
        } => {
            let Some(found) = known
                .ino(*parent)
                .and_then(|directory| disk.now.child(directory, name))
            else {
                return Outcome::NotBound(*inode);
            };
            known.learn(*inode, found);
            applied.handle = Some(handle(found));
        }
        Operation::Create(create) => {
            known.learn(create.inode, made);
            applied.handle = Some(handle(made));
        }
        Operation::Sync { inode, .. } => match known.ino(*inode) {
            Some(ino) => disk.sync(ino),
            None => return Outcome::NotBound(*inode),
        },
        Operation::Checkpoint => disk.sync_all(),
        _ => {}
    }
    Outcome::Applied(applied)
}

/// A status as the kernel gives it.
fn status_of(ino: Ino, node: &Node) -> Stat {
    static SOME: OnceLock<Stat> = OnceLock::new();
    let mut status = *SOME.get_or_init(|| rustix::fs::stat("/").unwrap());
    let kind = match node.is_directory {
        true => FileType::Directory,
        false => FileType::RegularFile,
    };
    status.st_mode = kind.as_raw_mode() | node.mode;
    status.st_ino = ino.0;
    status.st_nlink = u64::from(node.links);
    status.st_size = (node.size * CELL_BYTES) as i64;
    status
}

/// A disk as the source of a copy reads it.
pub(super) struct Reading<'a> {
    pub(super) tree: &'a Tree,
    pub(super) known: &'a Known,
}

impl Reading<'_> {
    fn node(&self, inode: InodeId) -> Result<(Ino, &Node), Errno> {
        let ino = self.known.ino(inode).ok_or(ESTALE)?;
        Ok((ino, self.tree.get(ino).ok_or(ESTALE)?))
    }

    pub(super) fn look_up(&self, directory: InodeId, name: &Name) -> Result<Found, Errno> {
        let (_, node) = self.node(directory)?;
        let ino = *node.names.get(name).ok_or(ENOENT)?;
        let found = self.tree.get(ino).ok_or(ENOENT)?;
        Ok(Found {
            root: 0,
            handle: handle(ino),
            status: status_of(ino, found),
        })
    }

    pub(super) fn status(&self, inode: InodeId) -> Result<Stat, Errno> {
        self.node(inode).map(|(ino, node)| status_of(ino, node))
    }

    pub(super) fn names(&self, directory: InodeId) -> Result<Vec<Name>, Errno> {
        Ok(self.node(directory)?.1.names.keys().cloned().collect())
    }

    pub(super) fn directory_place(&self, directory: InodeId) -> Result<Option<Above>, Errno> {
        let (ino, node) = self.node(directory)?;
        if ino == TOP || !node.is_directory {
            return Ok(None);
        }
        let (above, name) = self.tree.place_of_directory(ino).ok_or(ESTALE)?;
        Ok(Some(Above {
            root: 0,
            handle: handle(above),
            name,
        }))
    }

    pub(super) fn segments(&self, inode: InodeId, offset: u64, length: u64) -> Result<Vec<Segment>, Errno> {
        let (_, node) = self.node(inode)?;
        let end = (offset + length).div_ceil(CELL_BYTES).min(node.size);
        let first = (offset / CELL_BYTES).min(end);
        let mut segments: Vec<Segment> = Vec::new();
        let mut push = |from: u64, to: u64, is_data: bool| {
            if from < to {
                let (offset, length) = (from * CELL_BYTES, (to - from) * CELL_BYTES);
                segments.push(Segment {
                    offset,
                    length,
                    is_data,
                });
            }
        };
        let mut at = first;
        let mut data = first..first;
        for cell in node.cells.range(first..end).map(|(cell, _)| *cell) {
            if cell != data.end {
                push(data.start, data.end, true);
                push(at, cell, false);
                data = cell..cell;
            }
            data.end = cell + 1;
            at = cell + 1;
        }
        push(data.start, data.end, true);
        push(at, end, false);
        Ok(segments)
    }

    pub(super) fn read(&self, inode: InodeId, offset: u64, length: u64) -> Result<Bytes, Errno> {
        let (_, node) = self.node(inode)?;
        let end = (offset + length).min(node.size * CELL_BYTES);
        let cells = offset / CELL_BYTES..end.div_ceil(CELL_BYTES).max(offset / CELL_BYTES);
        Ok(bytes_of(
            cells.map(|cell| node.cells.get(&cell).copied().unwrap_or(0)),
        ))
    }

    pub(super) fn all_attributes(&self, inode: InodeId) -> Result<AllAttributes, Errno> {
        let (_, node) = self.node(inode)?;
        Ok(AllAttributes {
            size: (!node.is_directory).then_some(node.size * CELL_BYTES),
            mode: node.mode,
            uid: 0,
            gid: 0,
            mtime: time(node.mtime),
            xattrs: node
                .xattrs
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        })
    }
}

fn failed(attempt: &str, errno: Errno) -> ToSource {
    ToSource::Failed {
        errno,
        reason: attempt.to_owned(),
    }
}

/// As [`crate::resync::target::execute`], with one answer.
pub(super) fn execute(disk: &mut Disk, known: &mut Known, request: &ToTarget) -> ToSource {
    let done = match request {
        // A copy does not ask for the others.
        ToTarget::Open(_)
        | ToTarget::Names { .. }
        | ToTarget::Survey { .. }
        | ToTarget::Look { .. }
        | ToTarget::Sums { .. } => Err(ESTALE),
        ToTarget::List { directory, .. } => {
            let found = known
                .ino(*directory)
                .and_then(|ino| disk.now.get(ino))
                .ok_or(ESTALE);
            return match found {
                Ok(node) => ToSource::Listed {
                    names: node.names.keys().cloned().collect(),
                    more: false,
                },
                Err(errno) => failed("list", errno),
            };
        }
        ToTarget::Identify { nodes } => {
            let handles = nodes.iter().map(|node| identify(disk, known, node)).collect();
            return ToSource::Identified { handles };
        }
        ToTarget::Settle => {
            settle(disk);
            Ok(())
        }
        ToTarget::Place {
            directory,
            entries,
            sole,
            path: _,
        } => {
            let outcomes = entries
                .iter()
                .map(|entry| place(disk, known, *directory, entry, *sole));
            return match outcomes.collect() {
                Ok(outcomes) => ToSource::Placed { outcomes },
                Err(errno) => failed(&format!("place {entries:?} in {directory}: {errno}"), errno),
            };
        }
        ToTarget::Compare { blocks } => {
            let reading = Reading {
                tree: &disk.now,
                known,
            };
            let equal = blocks.iter().map(|block| {
                let length = u64::from(block.length);
                let whole =
                    matches!(&reading.segments(block.inode, block.offset, length)?[..], [one] if one.is_data);
                let bytes = reading.read(block.inode, block.offset, length)?;
                Ok::<_, Errno>(whole && bytes.len() as u64 == length && Sum::of(&bytes) == block.sum)
            });
            return match equal.collect() {
                Ok(equal) => ToSource::Compared { equal },
                Err(errno) => failed("compare", errno),
            };
        }
        ToTarget::Data { inode, offset, data } => existing(disk, known, *inode).map(|ino| {
            let end = (offset + data.len() as u64) / CELL_BYTES;
            disk.change(Change::Write {
                ino,
                cells: tags_of(*offset, data),
                end,
                time: Some(COPY_TIME),
            });
        }),
        ToTarget::Hole {
            inode,
            offset,
            length,
        } => existing(disk, known, *inode).map(|ino| {
            let size = disk.now.get(ino).map_or(0, |node| node.size);
            let end = ((offset + length) / CELL_BYTES).min(size);
            let cells = (offset / CELL_BYTES..end.max(offset / CELL_BYTES))
                .map(|cell| (cell, 0))
                .collect();
            disk.change(Change::Write {
                ino,
                cells,
                end: 0,
                time: Some(COPY_TIME),
            });
        }),
        ToTarget::Attributes { inode, attributes } => existing(disk, known, *inode).map(|ino| {
            let old: Vec<_> = disk
                .now
                .get(ino)
                .into_iter()
                .flat_map(|node| node.xattrs.keys().cloned())
                .collect();
            for name in old {
                if !attributes.xattrs.iter().any(|(kept, _)| *kept == name) {
                    disk.change(Change::RemoveXattr { ino, name });
                }
            }
            for (name, value) in &attributes.xattrs {
                disk.change(Change::SetXattr {
                    ino,
                    name: name.clone(),
                    value: value.clone(),
                });
            }
            disk.change(Change::Attributes {
                ino,
                size: attributes.size.map(|size| size / CELL_BYTES),
                mode: Some(attributes.mode),
                mtime: Some(attributes.mtime.seconds),
            });
        }),
    };
    match done {
        Ok(()) => ToSource::Written,
        Err(errno) => failed(&format!("{request:?}: {errno}"), errno),
    }
}

fn existing(disk: &Disk, known: &Known, inode: InodeId) -> Result<Ino, Errno> {
    let ino = known.ino(inode).ok_or(ESTALE)?;
    disk.now.get(ino).map(|_| ino).ok_or(ESTALE)
}

/// Removes what was put aside, and syncs.
pub(super) fn settle(disk: &mut Disk) {
    remove_displaced(disk);
    disk.sync_all();
}

pub(super) fn remove_displaced(disk: &mut Disk) {
    remove_below(disk, ASIDE);
}

fn remove_below(disk: &mut Disk, directory: Ino) {
    let names: Vec<(Name, Ino)> = disk
        .now
        .get(directory)
        .into_iter()
        .flat_map(|node| node.names.iter().map(|(name, ino)| (name.clone(), *ino)))
        .collect();
    for (name, ino) in names {
        remove_below(disk, ino);
        disk.change(Change::Unlink {
            directory,
            name,
            time: COPY_TIME,
        });
    }
}

fn is_such(node: &Node, kind: &NodeKind) -> bool {
    node.is_directory == matches!(kind, NodeKind::Directory)
}

fn identify(disk: &Disk, known: &mut Known, node: &Identify) -> Option<FileHandle> {
    let ino = match &node.by {
        By::Handle(handle) => by_handle(handle)?,
        By::Place { parent, name } => disk.now.child(known.ino(*parent)?, name)?,
    };
    let found = disk.now.get(ino)?;
    if found.links == 0 || (found.is_directory && disk.now.is_above(ASIDE, ino)) {
        return None;
    }
    (is_such(found, &node.kind) && known.claim(node.inode, ino)).then(|| handle(ino))
}

fn place(
    disk: &mut Disk,
    known: &mut Known,
    directory: InodeId,
    entry: &Entry,
    sole: bool,
) -> Result<Placed, Errno> {
    let into = known.ino(directory).ok_or(ESTALE)?;
    let there = disk.now.get(into).ok_or(ESTALE)?.names.get(&entry.name).copied();
    let Some(node) = &entry.node else {
        if let Some(there) = there {
            put_aside(disk, known, into, &entry.name, there);
        }
        return Ok(Placed::Vacant);
    };
    if node.known || known.ino(node.inode).is_some() {
        return place_known(disk, known, into, &entry.name, there, node);
    }
    if let Some(there) = there {
        let found = disk.now.get(there).ok_or(ESTALE)?;
        let may_be = !sole || found.is_directory || found.links == 1;
        if is_such(found, &node.kind) && may_be && known.claim(node.inode, there) {
            return Ok(Placed::There {
                handle: handle(there),
                new: false,
            });
        }
        put_aside(disk, known, into, &entry.name, there);
    }
    let ino = disk.now.next();
    let (name, is_directory) = (entry.name.clone(), matches!(node.kind, NodeKind::Directory));
    disk.change(Change::Make {
        directory: into,
        name,
        ino,
        is_directory,
        mode: 0,
        time: COPY_TIME,
    });
    known.learn(node.inode, ino);
    Ok(Placed::There {
        handle: handle(ino),
        new: true,
    })
}

fn place_known(
    disk: &mut Disk,
    known: &Known,
    into: Ino,
    name: &Name,
    there: Option<Ino>,
    wanted: &Wanted,
) -> Result<Placed, Errno> {
    let ino = known.ino(wanted.inode).ok_or(ESTALE)?;
    let placed = Placed::There {
        handle: handle(ino),
        new: false,
    };
    if there == Some(ino) {
        return Ok(placed);
    }
    if let Some(there) = there {
        put_aside(disk, known, into, name, there);
    }
    let node = disk.now.get(ino).ok_or(ESTALE)?;
    if node.links == 0 {
        return Err(ENOENT);
    }
    if !node.is_directory {
        disk.change(Change::Link {
            ino,
            directory: into,
            name: name.clone(),
            time: COPY_TIME,
        });
        return Ok(placed);
    }
    if disk.now.is_above(ino, into) {
        return Ok(Placed::Blocked);
    }
    let (from, old) = disk.now.place_of_directory(ino).ok_or(ESTALE)?;
    let (to, new, mode) = (into, name.clone(), RenameMode::NoReplace);
    disk.change(Change::Rename {
        from,
        name: old,
        to,
        new,
        mode,
        time: COPY_TIME,
    });
    Ok(placed)
}

/// What no number means goes at once, unless it is a directory.
fn put_aside(disk: &mut Disk, known: &Known, directory: Ino, name: &Name, there: Ino) {
    let is_directory = disk.now.get(there).is_some_and(|node| node.is_directory);
    if !is_directory && known.number(there).is_none() {
        disk.change(Change::Unlink {
            directory,
            name: name.clone(),
            time: COPY_TIME,
        });
        return;
    }
    let new = Name::new(disk.now.next().0.to_string().as_bytes()).unwrap();
    let mode = RenameMode::NoReplace;
    let (from, name, to) = (directory, name.clone(), ASIDE);
    disk.change(Change::Rename {
        from,
        name,
        to,
        new,
        mode,
        time: COPY_TIME,
    });
}
