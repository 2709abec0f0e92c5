//! The table of names *as sent*: where each known inode is after every operation numbered so far, and whether the
//! secondary knows it.
//!
//! The primary keeps it, under the lock that also numbers operations. It holds an entry for each inode that the
//! kernel knows, and for the directories above: about 70 bytes and the name, and for each that was shipped about as
//! many again for its handle on the secondary.

use super::border::{Crossing, Moved, Side, crossing};
use crate::exclude::{self, PerDirectory};
use crate::hash::HashMap;
use crate::operation::{FileHandle, InodeId, Name, NodeKind, Operation, Rename, RenameMode, Touched, Victim};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// How many of the last name operations are remembered for look-ups under way. A look-up overtaken by more of them
/// counts as raced, whatever their directories.
const REMEMBERED_CHANGES: usize = 4096;

const NOWHERE: InodeId = InodeId(0);

const BOUND: u16 = 1;
const FORGOTTEN: u16 = 2;
const DYING: u16 = 4;
const LOCAL: u16 = 8;
const ROOT: u16 = 16;
const PINNED: u16 = 32;
const MARKED: u16 = 64;
/// Of this node only, although it has a name.
const EXCLUDED: u16 = 128;
const DIRECTORY: u16 = 256;
/// It has several names, or had since it was looked up last.
const LINKED: u16 = 512;
/// It was excluded, and is replicated unless the rename that brings it in is refused.
const ENTERING: u16 = 1024;

/// The table; see the module.
#[derive(Debug)]
pub struct Names {
    entries: HashMap<InodeId, Entry>,
    /// Numbered operations under way per inode they touch.
    busy: HashMap<InodeId, u32>,
    /// Name operations under way per directory.
    unsettled: HashMap<InodeId, u32>,
    /// Directories of the last name operations, oldest first.
    recent: VecDeque<InodeId>,
    /// How many directories were ever put into `recent`.
    changes: u64,
    dying: usize,
    dropped: Vec<InodeId>,
    /// Excluded again, after the secondary may have been told of them.
    kept_out: Vec<InodeId>,
    /// The secondary's backing handles, as its answers brought them. An inode in here has an entry that is bound
    /// and not local, so the table is bounded as `entries` is.
    peer_handles: HashMap<InodeId, FileHandle>,
    /// What is excluded of each directory.
    excluded: PerDirectory,
    excludes_anything: bool,
}

/// One inode. A million of these are kept, so the place is spelt out in few bytes.
#[derive(Debug, Default)]
struct Entry {
    /// [`NOWHERE`] when no name of it is known.
    parent: InodeId,
    name: Box<[u8]>,
    /// Entries whose `parent` is this inode; they need it for their binding.
    children: u32,
    flags: u16,
}

/// What a look-up saw of an inode beside its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// It is a directory.
    pub is_directory: bool,
    /// It is none, and has more names than one.
    pub is_linked: bool,
}

/// A look-up under way, from before the backing directory is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookupTicket {
    directory: InodeId,
    /// The count of changes at the beginning; none when a name operation of the directory was unsettled.
    changes: Option<u64>,
}

/// A name operation of the same directory overlapped the look-up, so what it read may be old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a change of the directory overlapped the look-up; it must be repeated")]
pub struct Raced;

/// The operation is about an inode that the secondary does not know and that has no known name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no name of {inode} is known here, so the secondary cannot be told which one it is")]
pub struct Unnamed {
    /// Which.
    pub inode: InodeId,
}

/// What numbering one name operation changed, to be settled or undone later.
#[derive(Debug, Default)]
pub struct Change {
    directories: Touched,
    moves: Vec<Move>,
    dying: Option<InodeId>,
    /// Becomes excluded once it is applied; nothing is done with it before, as with one that is dying.
    leaving: Option<InodeId>,
    /// Was excluded until the operation was about to be numbered.
    entering: Option<InodeId>,
    created: Option<InodeId>,
}

#[derive(Debug)]
struct Move {
    inode: InodeId,
    before: Option<(InodeId, Box<[u8]>)>,
    after: Option<(InodeId, Box<[u8]>)>,
}

impl Names {
    /// Knows the roots only, which every session has bound from its start.
    pub fn new(directories: usize) -> Self {
        Names::excluding(exclude::nothing(directories))
    }

    /// As [`Names::new`], for directories of which this is excluded.
    pub fn excluding(excluded: PerDirectory) -> Self {
        let root = |index| {
            let entry = Entry {
                flags: ROOT | BOUND,
                ..Entry::default()
            };
            (InodeId::root(index), entry)
        };
        Names {
            entries: (0..excluded.len()).map(root).collect(),
            busy: HashMap::default(),
            unsettled: HashMap::default(),
            recent: VecDeque::new(),
            changes: 0,
            dying: 0,
            dropped: Vec::new(),
            kept_out: Vec::new(),
            peer_handles: HashMap::default(),
            excludes_anything: excluded.iter().any(|one| !one.is_empty()),
            excluded,
        }
    }

    /// Call it before the backing directory is read for a name.
    pub fn begin_lookup(&self, directory: InodeId) -> LookupTicket {
        let settled = !self.unsettled.contains_key(&directory);
        LookupTicket {
            directory,
            changes: settled.then_some(self.changes),
        }
    }

    /// Records that `inode` has `name` in the ticket's directory.
    ///
    /// # Errors
    /// [`Raced`] when a name operation of that directory was numbered since the ticket or was unsettled then.
    pub fn looked_up(
        &mut self,
        ticket: LookupTicket,
        inode: InodeId,
        name: &Name,
        seen: Seen,
    ) -> Result<(), Raced> {
        let since = ticket.changes.ok_or(Raced)?;
        let overlapping = self.changes.saturating_sub(since);
        if overlapping > self.recent.len() as u64 {
            return Err(Raced);
        }
        let mut newest = self.recent.iter().rev().take(overlapping as usize);
        if newest.any(|directory| *directory == ticket.directory) {
            return Err(Raced);
        }
        self.enliven(inode);
        let entry = self.entries.entry(inode).or_default();
        entry.flags &= !FORGOTTEN;
        set(&mut entry.flags, DIRECTORY, seen.is_directory);
        let known = entry.parent == ticket.directory && *entry.name == *name.as_bytes();
        if entry.flags & (LOCAL | DYING | ROOT) != 0 {
            return Ok(());
        }
        set(&mut entry.flags, LINKED, seen.is_linked);
        if !known {
            self.place(inode, Some((ticket.directory, name.as_bytes().into())));
            let side = self.side_of_name(ticket.directory, name, seen.is_directory);
            self.set_side(inode, side);
        }
        Ok(())
    }

    /// False when nothing is excluded of any directory.
    pub(super) fn excludes_anything(&self) -> bool {
        self.excludes_anything
    }

    /// On which side of the border an inode is.
    pub(super) fn side(&self, inode: InodeId) -> Side {
        Side::of(self.has(inode, EXCLUDED))
    }

    /// On which side a name is, after every operation numbered so far, that has an inode, or gets one.
    pub(super) fn side_of_name(&self, directory: InodeId, name: &Name, is_directory: bool) -> Side {
        if !self.excludes_anything {
            return Side::Replicated;
        }
        if self.has(directory, EXCLUDED) {
            return Side::Excluded;
        }
        // A directory without a place was removed: nothing is made in it any more.
        let Some((root, path)) = self.path_of(directory) else {
            return Side::Replicated;
        };
        let path = exclude::below(&path, name.as_bytes());
        let excluded = self.excluded.get(root);
        Side::of(excluded.is_some_and(|excluded| excluded.matches(&path, is_directory)))
    }

    /// The replicated directory that an inode lies in, and its path below it, after every operation numbered so far.
    pub(super) fn path_of(&self, inode: InodeId) -> Option<(usize, PathBuf)> {
        let mut names = Vec::new();
        let mut next = inode;
        // The bound ends the walk should two refused renames ever have left a circle.
        for _ in 0..=self.entries.len() {
            let entry = self.entries.get(&next)?;
            if entry.flags & ROOT != 0 {
                let root = usize::try_from(next.0.checked_sub(1)?).ok()?;
                let join = |path: PathBuf, name: &&[u8]| exclude::below(&path, name);
                return Some((root, names.iter().rev().fold(PathBuf::new(), join)));
            }
            if entry.parent == NOWHERE {
                return None;
            }
            names.push(&*entry.name);
            next = entry.parent;
        }
        None
    }

    /// What the patterns say of a directory that is renamed so.
    pub(super) fn exclusions_of(&self, root: usize) -> Option<&exclude::Exclusions> {
        self.excluded.get(root)
    }

    /// True for what was looked up, or made, as a directory.
    pub(super) fn is_directory(&self, inode: InodeId) -> bool {
        self.has(inode, DIRECTORY | ROOT)
    }

    /// True while no name operation is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// What a rename does at the border.
    pub(super) fn crossing(&self, rename: &Rename) -> Crossing {
        if !self.excludes_anything {
            return Crossing::Stays(Side::Replicated);
        }
        let moved = |inode: InodeId, directory: InodeId, name: &Name| {
            let is_directory = self.is_directory(inode);
            Moved {
                from: self.side(inode),
                to: self.side_of_name(directory, name, is_directory),
                above: self.side(rename.source_parent),
                is_directory,
                is_linked: self.has(inode, LINKED),
            }
        };
        let there = moved(rename.moved, rename.target_parent, &rename.target_name);
        let replaced = rename.replaced.map(|victim| self.side(victim.inode));
        let back = rename
            .replaced
            .filter(|_| rename.mode == RenameMode::Exchange)
            .map(|other| moved(other.inode, rename.source_parent, &rename.source_name));
        crossing(rename.mode, there, replaced, back)
    }

    /// An excluded file is about to be known to the secondary, or marked as something that it lacks: for the rename that
    /// brings it in.
    pub(super) fn enter(&mut self, inode: InodeId) {
        self.set_side(inode, Side::Replicated);
        if let Some(entry) = self.entries.get_mut(&inode) {
            entry.flags |= ENTERING;
        }
    }

    /// The rename does not come about: it is excluded as before.
    pub(super) fn keep_out(&mut self, inode: InodeId) {
        if self.has(inode, ENTERING) {
            self.entered(inode);
            self.set_side(inode, Side::Excluded);
            self.kept_out.push(inode);
        }
    }

    fn entered(&mut self, inode: InodeId) {
        if let Some(entry) = self.entries.get_mut(&inode) {
            entry.flags &= !ENTERING;
        }
    }

    /// The inodes that were kept out since the last call, and that no operation under way needs.
    pub(super) fn take_kept_out(&mut self) -> Vec<InodeId> {
        let busy = &self.busy;
        self.kept_out
            .extract_if(.., |inode| !busy.contains_key(inode))
            .collect()
    }

    /// The secondary knows nothing any more.
    pub(super) fn forget_kept_out(&mut self) {
        self.kept_out.clear();
    }

    fn set_side(&mut self, inode: InodeId, side: Side) {
        let Some(entry) = self.entries.get_mut(&inode) else {
            return;
        };
        match side {
            Side::Replicated => entry.flags &= !EXCLUDED,
            Side::Excluded => {
                entry.flags = (entry.flags & !BOUND) | EXCLUDED;
                self.peer_handles.remove(&inode);
            }
        }
    }

    /// The kernel forgot these inodes. Each goes as soon as no operation and no entry below needs it;
    /// [`Names::take_dropped`] tells which did.
    pub fn forget(&mut self, inodes: &[InodeId]) {
        for inode in inodes {
            if let Some(entry) = self.entries.get_mut(inode) {
                entry.flags |= FORGOTTEN;
                self.drop_unneeded(*inode);
            }
        }
    }

    /// The kernel looks up an inode again that it had forgotten: it stays. False when it went already.
    pub fn revive(&mut self, inode: InodeId) -> bool {
        match self.entries.get_mut(&inode) {
            Some(entry) => {
                entry.flags &= !FORGOTTEN;
                true
            }
            None => false,
        }
    }

    /// The inodes that went since the last call.
    pub fn take_dropped(&mut self) -> Vec<InodeId> {
        std::mem::take(&mut self.dropped)
    }

    /// True when [`Names::take_dropped`] has something.
    pub fn has_dropped(&self) -> bool {
        !self.dropped.is_empty()
    }

    /// Appends the `Bind`s, parents first, that must be numbered before `operation`, and counts their inodes as
    /// bound. Their handles are empty: the driver, which has the handles, fills them in.
    ///
    /// # Errors
    /// [`Unnamed`]; nothing has changed then.
    pub fn bind(&mut self, operation: &Operation, binds: &mut Vec<Operation>) -> Result<(), Unnamed> {
        let before = binds.len();
        for inode in used(operation).iter() {
            if let Err(unnamed) = self.bind_with_parents(*inode, binds) {
                for bind in binds.drain(before..) {
                    if let Operation::Bind { inode, .. } = bind {
                        self.unbind(inode);
                    }
                }
                return Err(unnamed);
            }
        }
        Ok(())
    }

    /// As [`Names::bind`], for one inode.
    ///
    /// # Errors
    /// [`Unnamed`]; nothing has changed then.
    pub fn bind_inode(&mut self, inode: InodeId, binds: &mut Vec<Operation>) -> Result<(), Unnamed> {
        let before = binds.len();
        let bound = self.bind_with_parents(inode, binds);
        if bound.is_err() {
            for bind in binds.drain(before..) {
                if let Operation::Bind { inode, .. } = bind {
                    self.unbind(inode);
                }
            }
        }
        bound
    }

    fn bind_with_parents(&mut self, inode: InodeId, binds: &mut Vec<Operation>) -> Result<(), Unnamed> {
        let start = binds.len();
        let mut next = inode;
        // The bound ends the walk should two refused renames ever have left a circle.
        for _ in 0..=self.entries.len() {
            let entry = self.entries.get_mut(&next).ok_or(Unnamed { inode: next })?;
            if entry.flags & BOUND != 0 {
                binds[start..].reverse();
                return Ok(());
            }
            let name = Name::new(&entry.name);
            let (false, Ok(name)) = (entry.parent == NOWHERE, name) else {
                break;
            };
            entry.flags |= BOUND;
            let parent = entry.parent;
            binds.push(Operation::Bind {
                inode: next,
                parent,
                name,
                handle: unfilled_handle(),
            });
            next = parent;
        }
        Err(Unnamed { inode: next })
    }

    /// The secondary does not know this inode, whatever was said before.
    pub fn unbind(&mut self, inode: InodeId) {
        if let Some(entry) = self.entries.get_mut(&inode)
            && entry.flags & ROOT == 0
        {
            entry.flags &= !BOUND;
            self.peer_handles.remove(&inode);
        }
    }

    /// The secondary is to be told afresh of this inode and of the directories above it.
    pub fn unbind_path(&mut self, inode: InodeId) {
        let mut next = inode;
        // The bound ends the walk should two refused renames ever have left a circle.
        for _ in 0..=self.entries.len() {
            self.unbind(next);
            match self.entries.get(&next) {
                Some(entry) if entry.parent != NOWHERE => next = entry.parent,
                Some(_) | None => return,
            }
        }
    }

    /// A pinned inode of which no name is known has this one, after every operation numbered so far.
    pub fn place_pinned(&mut self, inode: InodeId, parent: InodeId, name: &Name) {
        let nowhere = |entry: &Entry| {
            entry.parent == NOWHERE && entry.flags & PINNED != 0 && entry.flags & (LOCAL | DYING | ROOT) == 0
        };
        if self.entries.get(&inode).is_some_and(nowhere) {
            self.place(inode, Some((parent, name.as_bytes().into())));
        }
    }

    /// A copy begins: the secondary knows nothing but the roots.
    pub fn unbind_all(&mut self) {
        self.peer_handles.clear();
        for entry in self.entries.values_mut() {
            if entry.flags & ROOT == 0 {
                entry.flags &= !BOUND;
            }
        }
    }

    /// The copy has found this inode: it stays until [`Names::unpin_all`], whether the kernel knows it or not.
    pub fn pin(&mut self, inode: InodeId) {
        self.enliven(inode);
        let entry = self.entries.entry(inode).or_insert_with(|| Entry {
            flags: FORGOTTEN,
            ..Entry::default()
        });
        entry.flags |= PINNED;
    }

    /// The dirty map speaks of this inode: it keeps its entry, and so its number, until [`Names::let_go`] or the loss
    /// of its last name. True when it was not kept before.
    pub fn keep(&mut self, inode: InodeId) -> bool {
        self.enliven(inode);
        let entry = self.entries.entry(inode).or_insert_with(|| Entry {
            flags: FORGOTTEN,
            ..Entry::default()
        });
        let is_new = entry.flags & (MARKED | ROOT) == 0;
        entry.flags |= MARKED;
        is_new
    }

    /// The dirty map does not speak of this inode any more.
    pub fn let_go(&mut self, inode: InodeId) {
        if let Some(entry) = self.entries.get_mut(&inode)
            && entry.flags & MARKED != 0
        {
            entry.flags &= !MARKED;
            self.drop_unneeded(inode);
        }
    }

    /// The directory and name of an inode after every operation numbered so far, if one is known.
    pub fn place_of(&self, inode: InodeId) -> Option<(InodeId, Name)> {
        let entry = self.entries.get(&inode)?;
        if entry.parent == NOWHERE {
            return None;
        }
        // What is in the table came in as a name.
        Name::new(&entry.name).ok().map(|name| (entry.parent, name))
    }

    /// As [`Names::place_of`], of what is replicated: the secondary may have it there.
    pub(super) fn place_there(&self, inode: InodeId) -> Option<(InodeId, Name)> {
        self.place_of(inode)
            .filter(|_| self.side(inode) == Side::Replicated)
    }

    /// The secondary was told of an inode by the copy.
    pub fn set_bound(&mut self, inode: InodeId) {
        if let Some(entry) = self.entries.get_mut(&inode)
            && entry.flags & EXCLUDED == 0
        {
            entry.flags |= BOUND;
        }
    }

    /// The copy is over: what only it has needed goes.
    pub fn unpin_all(&mut self) {
        let mut pinned = Vec::new();
        for (inode, entry) in &mut self.entries {
            if entry.flags & PINNED != 0 {
                entry.flags &= !PINNED;
                pinned.push(*inode);
            }
        }
        for inode in pinned {
            self.drop_unneeded(inode);
        }
    }

    /// The secondary told its handle of an inode, in the answer to the `Bind` or `Create` that made it known there.
    /// Of an inode that has gone, or lost its last name, since that was sent it is of no use any more.
    pub fn learn_peer_handle(&mut self, inode: InodeId, handle: FileHandle) {
        let wanted = |entry: &Entry| entry.flags & (BOUND | LOCAL | EXCLUDED | ROOT) == BOUND;
        if self.entries.get(&inode).is_some_and(wanted) {
            self.peer_handles.insert(inode, handle);
        }
    }

    /// By which the secondary finds the inode again on its own disk, whatever its names are. None for a root, for an
    /// inode that was not shipped yet, and for one without a name.
    pub fn peer_handle(&self, inode: InodeId) -> Option<&FileHandle> {
        self.peer_handles.get(&inode)
    }

    /// Enters what a name operation changes, in the step that numbers it; nothing for others.
    pub fn number(&mut self, operation: &Operation) -> Option<Box<Change>> {
        let mut change = Change::default();
        match operation {
            Operation::Create(create) => {
                change.directories.add(create.parent);
                let is_directory = matches!(create.kind, NodeKind::Directory);
                let side = self.side_of_name(create.parent, &create.name, is_directory);
                let entry = self.entries.entry(create.inode).or_default();
                entry.flags = (entry.flags & !FORGOTTEN) | BOUND;
                set(&mut entry.flags, DIRECTORY, is_directory);
                self.set_side(create.inode, side);
                change.created = Some(create.inode);
                self.move_to(&mut change, create.inode, Some((create.parent, &create.name)));
            }
            Operation::Link {
                inode, parent, name, ..
            } => {
                change.directories.add(*parent);
                self.entries.entry(*inode).or_default().flags |= LINKED;
                if self.is_nowhere(*inode) {
                    self.move_to(&mut change, *inode, Some((*parent, name)));
                }
            }
            Operation::Unlink(unlink) => {
                change.directories.add(unlink.parent);
                self.take_name(&mut change, unlink.victim, unlink.parent, &unlink.name);
            }
            Operation::Rename(rename) => {
                change.directories.add(rename.source_parent);
                change.directories.add(rename.target_parent);
                let source = (rename.source_parent, &rename.source_name);
                let target = (rename.target_parent, &rename.target_name);
                let leaves = self.crossing(rename) == Crossing::Leaves;
                match rename.replaced {
                    // Two names of one inode: rename(2) does nothing.
                    Some(victim) if victim.inode == rename.moved => {}
                    Some(other) if rename.mode == RenameMode::Exchange => {
                        let (moves, back) = (
                            self.is_at(rename.moved, source) || self.is_nowhere(rename.moved),
                            self.is_at(other.inode, target) || self.is_nowhere(other.inode),
                        );
                        if moves {
                            self.move_to(&mut change, rename.moved, Some(target));
                        }
                        if back {
                            self.move_to(&mut change, other.inode, Some(source));
                        }
                    }
                    replaced => {
                        if let Some(victim) = replaced {
                            self.take_name(&mut change, victim, target.0, target.1);
                        }
                        if self.is_at(rename.moved, source) || self.is_nowhere(rename.moved) {
                            self.move_to(&mut change, rename.moved, Some(target));
                        }
                    }
                }
                change.entering = Some(rename.moved).filter(|moved| self.has(*moved, ENTERING));
                if leaves && let Some(entry) = self.entries.get_mut(&rename.moved) {
                    entry.flags |= DYING;
                    self.dying += 1;
                    change.leaving = Some(rename.moved);
                }
            }
            Operation::Bind { .. }
            | Operation::Write { .. }
            | Operation::SetAttributes { .. }
            | Operation::Fallocate { .. }
            | Operation::CopyRange { .. }
            | Operation::SetXattr { .. }
            | Operation::RemoveXattr { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => return None,
        }
        for directory in change.directories.iter() {
            *self.unsettled.entry(*directory).or_default() += 1;
            self.changes += 1;
            self.recent.push_back(*directory);
            if self.recent.len() > REMEMBERED_CHANGES {
                self.recent.pop_front();
            }
        }
        Some(Box::new(change))
    }

    /// The operation of this change was applied on this node: an inode that lost its last name is local now.
    pub fn applied(&mut self, change: &Change) {
        self.settle(change);
        if let Some(inode) = change.dying {
            self.dying = self.dying.saturating_sub(1);
            self.place(inode, None);
            if let Some(entry) = self.entries.get_mut(&inode) {
                entry.flags = (entry.flags & !DYING) | LOCAL;
            }
            self.peer_handles.remove(&inode);
        }
        if let Some(inode) = change.leaving {
            self.stays_alive(inode);
            self.set_side(inode, Side::Excluded);
        }
        if let Some(inode) = change.entering {
            self.entered(inode);
        }
    }

    fn stays_alive(&mut self, inode: InodeId) {
        self.dying = self.dying.saturating_sub(1);
        if let Some(entry) = self.entries.get_mut(&inode) {
            entry.flags &= !DYING;
        }
    }

    /// The operation of this change was refused: the names are as before it, unless a later one has moved them on.
    pub fn refused(&mut self, change: &Change) {
        self.settle(change);
        for inode in [change.dying, change.leaving].into_iter().flatten() {
            self.stays_alive(inode);
        }
        if let Some(inode) = change.entering {
            self.keep_out(inode);
        }
        for step in change.moves.iter().rev() {
            let Some(entry) = self.entries.get(&step.inode) else {
                continue;
            };
            let stays = match &step.after {
                Some((parent, name)) => entry.parent == *parent && entry.name == *name,
                None => entry.parent == NOWHERE,
            };
            if stays {
                self.place(step.inode, step.before.clone());
            }
        }
        if let Some(inode) = change.created
            && let Some(entry) = self.entries.get_mut(&inode)
        {
            // The kernel never hears of it, so it will not forget it either.
            entry.flags = (entry.flags & !(BOUND | PINNED | MARKED)) | FORGOTTEN;
            self.peer_handles.remove(&inode);
            self.drop_unneeded(inode);
        }
    }

    fn settle(&mut self, change: &Change) {
        for directory in change.directories.iter() {
            count_down(&mut self.unsettled, *directory);
        }
    }

    /// A numbered operation touches these inodes until [`Names::release`].
    pub fn hold(&mut self, touched: &Touched) {
        for inode in touched.iter() {
            *self.busy.entry(*inode).or_default() += 1;
        }
    }

    /// The opposite of [`Names::hold`].
    pub fn release(&mut self, touched: &Touched) {
        for inode in touched.iter() {
            count_down(&mut self.busy, *inode);
            if self
                .entries
                .get(inode)
                .is_some_and(|entry| entry.flags & FORGOTTEN != 0)
            {
                self.drop_unneeded(*inode);
            }
        }
    }

    /// True while a numbered operation touches the inode.
    pub fn is_busy(&self, inode: InodeId) -> bool {
        self.busy.contains_key(&inode)
    }

    /// True from the numbering of the removal of its last name until that is settled.
    pub fn is_dying(&self, inode: InodeId) -> bool {
        self.dying > 0 && self.has(inode, DYING)
    }

    /// True once the removal of its last name is applied, and for what is excluded: nothing about it is shipped.
    pub fn is_local(&self, inode: InodeId) -> bool {
        self.has(inode, LOCAL | EXCLUDED)
    }

    /// True for an inode without a name that is replicated, also once it has gone because of that. What a copy keeps track of is pinned
    /// until then, so nothing else of it goes.
    pub fn is_gone(&self, inode: InodeId) -> bool {
        self.entries
            .get(&inode)
            .is_none_or(|entry| entry.flags & (LOCAL | EXCLUDED) != 0)
    }

    /// True when the secondary was told which inode this is.
    pub fn is_bound(&self, inode: InodeId) -> bool {
        self.has(inode, BOUND)
    }

    /// How many inodes are known, the roots included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when not even a root is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn has(&self, inode: InodeId, flag: u16) -> bool {
        self.entries
            .get(&inode)
            .is_some_and(|entry| entry.flags & flag != 0)
    }

    fn is_nowhere(&self, inode: InodeId) -> bool {
        let nowhere = |entry: &Entry| entry.parent == NOWHERE && entry.flags & (ROOT | LOCAL) == 0;
        self.entries.get(&inode).is_none_or(nowhere)
    }

    fn is_at(&self, inode: InodeId, (parent, name): (InodeId, &Name)) -> bool {
        let at = |entry: &Entry| entry.parent == parent && *entry.name == *name.as_bytes();
        self.entries.get(&inode).is_some_and(at)
    }

    fn take_name(&mut self, change: &mut Change, victim: Victim, parent: InodeId, name: &Name) {
        let entry = self.entries.entry(victim.inode).or_default();
        if victim.last {
            if entry.flags & (DYING | LOCAL) == 0 {
                entry.flags |= DYING;
                self.dying += 1;
                change.dying = Some(victim.inode);
            }
        } else if self.is_at(victim.inode, (parent, name)) {
            self.move_to(change, victim.inode, None);
        }
    }

    fn move_to(&mut self, change: &mut Change, inode: InodeId, after: Option<(InodeId, &Name)>) {
        let entry = self.entries.entry(inode).or_default();
        let before = (entry.parent != NOWHERE).then(|| (entry.parent, entry.name.clone()));
        let after = after.map(|(parent, name)| (parent, Box::from(name.as_bytes())));
        self.place(inode, after.clone());
        change.moves.push(Move { inode, before, after });
    }

    fn place(&mut self, inode: InodeId, place: Option<(InodeId, Box<[u8]>)>) {
        let (parent, name) = place.unwrap_or_default();
        if parent != NOWHERE {
            self.enliven(parent);
            self.entries.entry(parent).or_default().children += 1;
        }
        let entry = self.entries.entry(inode).or_default();
        let left = std::mem::replace(&mut entry.parent, parent);
        entry.name = name;
        self.leave(left);
    }

    /// One entry fewer has `parent` as its directory.
    fn leave(&mut self, parent: InodeId) {
        if let Some(entry) = self.entries.get_mut(&parent) {
            entry.children = entry.children.saturating_sub(1);
            self.drop_unneeded(parent);
        }
    }

    /// It went, and is needed again before anybody was told.
    fn enliven(&mut self, inode: InodeId) {
        if !self.dropped.is_empty() {
            self.dropped.retain(|dropped| *dropped != inode);
        }
    }

    fn drop_unneeded(&mut self, inode: InodeId) {
        let mut next = inode;
        while let Some(entry) = self.entries.get(&next) {
            let needed = entry.flags & FORGOTTEN == 0
                || entry.flags & ROOT != 0
                // Of an inode without a name nothing is left to bring over.
                || (entry.flags & (PINNED | MARKED) != 0 && entry.flags & (LOCAL | EXCLUDED) == 0)
                || entry.children > 0
                || self.busy.contains_key(&next);
            if needed {
                return;
            }
            let parent = entry.parent;
            if entry.flags & DYING != 0 {
                self.dying = self.dying.saturating_sub(1);
            }
            self.entries.remove(&next);
            self.peer_handles.remove(&next);
            self.dropped.push(next);
            match self.entries.get_mut(&parent) {
                Some(above) => above.children = above.children.saturating_sub(1),
                None => return,
            }
            next = parent;
        }
    }
}

/// The handle in a `Bind` as [`Names::bind`] makes it: no kind, no bytes.
pub fn unfilled_handle() -> FileHandle {
    FileHandle {
        kind: 0,
        bytes: Arc::from([]),
    }
}

/// The inodes that the secondary must know before it can apply the operation, parents before what is in them.
pub(super) fn used(operation: &Operation) -> Touched {
    match operation {
        Operation::Create(create) => Touched::of([create.parent]),
        Operation::Unlink(unlink) if unlink.victim.last => Touched::of([unlink.parent]),
        Operation::Rename(rename) => {
            let mut used = Touched::of([rename.source_parent, rename.target_parent, rename.moved]);
            if let Some(victim) = rename.replaced
                && (!victim.last || rename.mode == RenameMode::Exchange)
            {
                used.add(victim.inode);
            }
            used
        }
        Operation::Bind { parent, .. } => Touched::of([*parent]),
        Operation::Link { .. }
        | Operation::Unlink(_)
        | Operation::Write { .. }
        | Operation::SetAttributes { .. }
        | Operation::Fallocate { .. }
        | Operation::CopyRange { .. }
        | Operation::SetXattr { .. }
        | Operation::RemoveXattr { .. }
        | Operation::Sync { .. }
        | Operation::Checkpoint => operation.touched(),
    }
}

fn set(flags: &mut u16, flag: u16, is_set: bool) {
    if is_set {
        *flags |= flag;
    } else {
        *flags &= !flag;
    }
}

fn count_down(counts: &mut HashMap<InodeId, u32>, inode: InodeId) {
    if let Some(count) = counts.get_mut(&inode) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&inode);
        }
    }
}

#[cfg(test)]
mod tests;
