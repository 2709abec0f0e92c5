//! What of the primary's tree the target of a copy has, while applications go on changing it.
//!
//! It decides for each operation whether it is shipped, applied on the primary alone, or held back. No I/O: the
//! driver (`resync/source.rs`) reads and sends, and asks here before it does.
//!
//! **Names.** An entry `(directory, name)` is *clean* when the target has the same inode under it, else *stale*.
//! All names of a directory are stale until it was listed; then all but those in its `stale` set are clean. A name
//! operation is shipped when all its names are clean and the target can do the same with the inodes; else it is
//! applied on the primary alone, and its names are stale from then on. Every name that is brought over becomes
//! clean, operations on clean names keep them clean: the stale ones end.
//!
//! **Inodes.** The target has an inode (`Names` says "bound") from the first of its names that is brought over.
//! From then on changes of its data, size, mode, owner and times are shipped; before, they are applied on the
//! primary alone. It is *finished* once its data and then all its attributes are brought over. Until then changes of
//! its extended attributes are applied on the primary alone, because the target may refuse what the primary does
//! not.
//!
//! **A tracked copy** begins with what the dirty map names instead of with nothing: names of directories that the map
//! does not speak of are clean, its marked names are stale, and of an inode only what is marked is left. The target can
//! be told of any inode by its names as long as those are clean, up to one that it was told of.
//!
//! **Claims.** What the driver is about to read and send it claims first ([`super::claims`]): so what is read is what
//! the target gets.

use super::claims::Scope;
use super::names::Names;
use super::pending::entries;
use crate::dirty::{Content, Extents, Plan, changed_extents};
use crate::hash::{HashMap, HashSet};
use crate::operation::{FileHandle, InodeId, Name, Operation, RenameMode, Victim};
use std::collections::BTreeSet;
use std::num::NonZeroU64;

/// What the target has since the claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// These names of the claim are the same on the target now; the claim's others are stale.
    pub names: Vec<Name>,
    /// The target was told of these inodes, and has these handles of them. Their data, where they have any, and
    /// attributes are still missing.
    pub bound: Vec<(InodeId, FileHandle)>,
    /// These inodes are finished.
    pub finished: Vec<InodeId>,
}

/// What is left of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// All of it: data is compared, attributes are sent.
    Whole,
    /// These extents of its data, and all attributes.
    Part(Extents),
}

/// What is left to bring over, apart from the inodes that the driver has been told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// Stale names by directory.
    pub stale: Vec<(InodeId, Vec<Name>)>,
    /// Inodes that the target has, or can be told of, and that are not finished.
    pub unfinished: Vec<(InodeId, Left)>,
    /// In a tracked copy: directories that may hold names that the target lacks, and were not listed.
    pub unlisted: Vec<InodeId>,
    /// A directory is being listed, or a claim is held.
    pub busy: bool,
}

impl Rest {
    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.stale.is_empty() && self.unfinished.is_empty() && self.unlisted.is_empty() && !self.busy
    }
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// It is sent to the target first, as in sync.
    Ship,
    /// It is applied here alone; the copy brings its effect over.
    Local,
    /// The kernel is to do it by reading and writing (`EXDEV`): the target may not have the source's data yet.
    ByReadAndWrite,
}

#[derive(Debug)]
enum Listing {
    /// Its names are being compared; every change is local. These have changed meanwhile.
    Going { changed: BTreeSet<Name> },
    /// All of its names are clean but these.
    Done { stale: BTreeSet<Name> },
}

/// See the module.
///
/// Every inode that it keeps track of is pinned in `Names`: it keeps its entry, and so its number, until it has no
/// name any more or the copy is over.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    directories: HashMap<InodeId, Listing>,
    /// Directories with a name in their `stale` set.
    with_stale: BTreeSet<InodeId>,
    unfinished: HashMap<InodeId, Left>,
    /// A tracked copy: names are clean where nothing says that they are stale. The extent's size in bytes.
    trusts: Option<NonZeroU64>,
    /// In a tracked copy: directories whose names are stale until they were listed.
    unlisted: HashSet<InodeId>,
    /// Names of these that have changed here only since the copy began.
    spoilt_unlisted: HashMap<InodeId, BTreeSet<Name>>,
}

impl Coverage {
    /// Nothing but the roots, which every target has.
    pub(super) fn new(roots: impl Iterator<Item = InodeId>) -> Self {
        Coverage {
            unfinished: roots.map(|root| (root, Left::Whole)).collect(),
            ..Coverage::default()
        }
    }

    /// Everything but what the map names.
    pub(super) fn tracked(plan: &Plan, extent_bytes: NonZeroU64) -> Self {
        let mut coverage = Coverage {
            trusts: Some(extent_bytes),
            ..Coverage::default()
        };
        for directory in plan.additions.iter().copied() {
            coverage.unlisted.insert(directory);
        }
        for (directory, names) in &plan.names {
            if coverage.unlisted.contains(directory) {
                continue;
            }
            let stale = names.clone();
            coverage.directories.insert(*directory, Listing::Done { stale });
            coverage.with_stale.insert(*directory);
        }
        for (inode, node) in &plan.nodes {
            match &node.content {
                Content::Extents(extents) if !extents.is_empty() || node.attributes => {
                    coverage.unfinished.insert(*inode, Left::Part(extents.clone()));
                }
                Content::Extents(_) => {}
                Content::Whole => {
                    coverage.unfinished.insert(*inode, Left::Whole);
                    coverage.unlisted.insert(*inode);
                    // Its marked names are among those that are listed.
                    coverage.directories.remove(inode);
                    coverage.with_stale.remove(inode);
                }
                // It is found by its name, which is marked.
                Content::Fresh => {
                    coverage.unlisted.insert(*inode);
                }
            }
        }
        coverage
    }

    /// True for a copy of what the map names.
    pub(super) fn is_tracked(&self) -> bool {
        self.trusts.is_some()
    }

    /// Where an operation goes that nothing holds back.
    pub(super) fn route(&self, operation: &Operation, names: &Names) -> Route {
        let bound = |inode: &InodeId| self.can_be_told(*inode, names);
        let ship = |holds: bool| if holds { Route::Ship } else { Route::Local };
        match operation {
            Operation::Create(create) => {
                ship(self.is_clean(create.parent, &create.name) && bound(&create.parent))
            }
            Operation::Link {
                inode, parent, name, ..
            } => ship(self.is_clean(*parent, name) && bound(parent) && bound(inode)),
            Operation::Unlink(unlink) => ship(
                self.is_clean(unlink.parent, &unlink.name)
                    && bound(&unlink.parent)
                    && self.may_remove(unlink.victim),
            ),
            Operation::Rename(rename) => {
                let clean = self.is_clean(rename.source_parent, &rename.source_name)
                    && self.is_clean(rename.target_parent, &rename.target_name);
                let victim = match (rename.mode, rename.replaced) {
                    (_, None) => true,
                    (RenameMode::Exchange, Some(other)) => bound(&other.inode),
                    (RenameMode::Replace | RenameMode::NoReplace, Some(victim)) => {
                        victim.inode == rename.moved || self.may_remove(victim)
                    }
                };
                let parents = bound(&rename.source_parent) && bound(&rename.target_parent);
                ship(clean && parents && victim && bound(&rename.moved))
            }
            Operation::Write { inode, .. }
            | Operation::SetAttributes { inode, .. }
            | Operation::Fallocate { inode, .. } => ship(bound(inode)),
            Operation::SetXattr { inode, .. } | Operation::RemoveXattr { inode, .. } => {
                ship(bound(inode) && !self.unfinished.contains_key(inode))
            }
            Operation::CopyRange { target, .. } if bound(target) => Route::ByReadAndWrite,
            Operation::CopyRange { .. }
            | Operation::Bind { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => Route::Local,
        }
    }

    /// An operation is numbered and shipped.
    pub(super) fn shipped(&mut self, operation: &Operation) {
        if let Operation::Create(create) = operation
            && matches!(create.kind, crate::operation::NodeKind::Directory)
        {
            let stale = BTreeSet::new();
            self.directories.insert(create.inode, Listing::Done { stale });
        }
    }

    /// An operation is numbered and stays on this node.
    pub(super) fn kept_here(&mut self, operation: &Operation) {
        for (directory, name) in entries(operation) {
            self.spoil(directory, name);
        }
        let Some(extent_bytes) = self.trusts else {
            return;
        };
        if let Operation::Create(create) = operation {
            // Nothing of it is known to the target; its name is stale.
            self.unlisted.insert(create.inode);
        }
        if let Some((inode, extents)) = changed_extents(operation, extent_bytes) {
            match self
                .unfinished
                .entry(inode)
                .or_insert_with(|| Left::Part(Extents::default()))
            {
                Left::Whole => {}
                Left::Part(part) => {
                    part.insert(extents);
                }
            }
        }
    }

    /// Nothing that the target may have of this inode is worth anything.
    pub(super) fn lacks(&mut self, inode: InodeId) {
        self.unfinished.insert(inode, Left::Whole);
    }

    /// The target may have something else under this name.
    fn spoil(&mut self, directory: InodeId, name: Name) {
        match self.directories.get_mut(&directory) {
            None if self.trusts.is_none() => return,
            // What both sides have is not looked at when it is listed, unless it is marked: it was not when the copy
            // began.
            None if self.unlisted.contains(&directory) => {
                self.spoilt_unlisted.entry(directory).or_default().insert(name);
                return;
            }
            None => {
                let stale = BTreeSet::from([name]);
                self.directories.insert(directory, Listing::Done { stale });
                self.with_stale.insert(directory);
            }
            Some(Listing::Going { changed }) => {
                changed.insert(name);
            }
            Some(Listing::Done { stale }) => {
                stale.insert(name);
                self.with_stale.insert(directory);
            }
        }
        // Its mtime has changed here, and not there.
        self.attributes_left(directory);
    }

    fn attributes_left(&mut self, inode: InodeId) {
        let nothing = || match self.trusts {
            Some(_) => Left::Part(Extents::default()),
            None => Left::Whole,
        };
        self.unfinished.entry(inode).or_insert_with(nothing);
    }

    /// The directory's names are about to be read on both sides. `under_way` are the operations that may still
    /// change them. False when that was done already.
    pub(super) fn begin_listing<'a>(
        &mut self,
        directory: InodeId,
        under_way: impl Iterator<Item = &'a Operation>,
    ) -> bool {
        if self.directories.contains_key(&directory) {
            return false;
        }
        let here = |entry: (InodeId, Name)| (entry.0 == directory).then_some(entry.1);
        let mut changed: BTreeSet<Name> = under_way.flat_map(entries).filter_map(here).collect();
        changed.extend(self.spoilt_unlisted.remove(&directory).unwrap_or_default());
        self.directories.insert(directory, Listing::Going { changed });
        self.unlisted.remove(&directory);
        self.attributes_left(directory);
        true
    }

    /// Every name that was read on either side was brought over.
    pub(super) fn end_listing(&mut self, directory: InodeId) {
        if let Some(listing @ Listing::Going { .. }) = self.directories.get_mut(&directory) {
            let Listing::Going { changed } = listing else {
                return;
            };
            let stale = std::mem::take(changed);
            if !stale.is_empty() {
                self.with_stale.insert(directory);
            }
            *listing = Listing::Done { stale };
        }
    }

    /// A claim was given back.
    pub(super) fn released(&mut self, scope: Scope, brought: &Brought) {
        if let Some((directory, names)) = scope.names {
            let same: HashSet<&Name> = brought.names.iter().collect();
            // Its mtime there is that of the copy.
            self.attributes_left(directory);
            for name in names {
                if same.contains(&name) {
                    self.clean(directory, &name);
                } else {
                    self.spoil(directory, name);
                }
            }
        }
        for (inode, _) in &brought.bound {
            self.unfinished.insert(*inode, Left::Whole);
            if self.trusts.is_some() {
                // What it is there was not known before: none of its names is the same for certain.
                self.directories.remove(inode);
                self.with_stale.remove(inode);
                self.unlisted.insert(*inode);
            }
        }
        for inode in &brought.finished {
            self.unfinished.remove(inode);
            // The driver lists directories before it gives them their attributes.
            self.unlisted.remove(inode);
        }
    }

    /// What is left, at most `most` names and `most` inodes. What has lost its last name meanwhile is dropped.
    /// `claimed`: a claim is held.
    pub(super) fn rest(&mut self, names: &Names, most: usize, claimed: bool) -> Rest {
        self.unfinished.retain(|inode, _| !names.is_gone(*inode));
        self.unlisted.retain(|inode| !names.is_gone(*inode));
        self.spoilt_unlisted.retain(|inode, _| !names.is_gone(*inode));
        let gone: Vec<InodeId> = self
            .with_stale
            .iter()
            .copied()
            .filter(|directory| names.is_gone(*directory))
            .collect();
        for directory in gone {
            self.with_stale.remove(&directory);
            self.directories.remove(&directory);
        }
        let mut stale = Vec::new();
        let mut left = most;
        for directory in &self.with_stale {
            if left == 0 {
                break;
            }
            if let Some(Listing::Done { stale: some }) = self.directories.get(directory) {
                let some: Vec<Name> = some.iter().take(left).cloned().collect();
                left -= some.len();
                stale.push((*directory, some));
            }
        }
        let listing = |(directory, listing): (&InodeId, &Listing)| {
            matches!(listing, Listing::Going { .. }) && !names.is_gone(*directory)
        };
        Rest {
            stale,
            unfinished: self
                .unfinished
                .iter()
                .take(most)
                .map(|(inode, left)| (*inode, left.clone()))
                .collect(),
            unlisted: self.unlisted.iter().copied().take(most).collect(),
            busy: claimed || self.directories.iter().any(listing),
        }
    }

    fn clean(&mut self, directory: InodeId, name: &Name) {
        match self.directories.get_mut(&directory) {
            None => {}
            Some(Listing::Going { changed }) => {
                changed.remove(name);
            }
            Some(Listing::Done { stale }) => {
                stale.remove(name);
                if stale.is_empty() {
                    self.with_stale.remove(&directory);
                }
            }
        }
    }

    pub(super) fn is_clean(&self, directory: InodeId, name: &Name) -> bool {
        match self.directories.get(&directory) {
            Some(Listing::Done { stale }) => !stale.contains(name),
            Some(Listing::Going { .. }) => false,
            None => self.trusts.is_some() && !self.unlisted.contains(&directory),
        }
    }

    /// Whether the target knows which inode this is, or can be told by names that are the same there.
    fn can_be_told(&self, inode: InodeId, names: &Names) -> bool {
        if names.is_local(inode) {
            return false;
        }
        let mut next = inode;
        // The bound ends the walk should two refused renames ever have left a circle.
        for _ in 0..=names.len() {
            if names.is_bound(next) {
                return true;
            }
            if self.trusts.is_none() {
                return false;
            }
            let Some((parent, name)) = names.place_of(next) else {
                return false;
            };
            if !self.is_clean(parent, &name) {
                return false;
            }
            next = parent;
        }
        false
    }

    /// Whether the target ends up the same when it takes this name away. A file with further names here might have
    /// none there, and a directory that is empty here need not be empty there.
    fn may_remove(&self, victim: Victim) -> bool {
        if !victim.last {
            return false;
        }
        match self.directories.get(&victim.inode) {
            Some(Listing::Done { stale }) => stale.is_empty(),
            Some(Listing::Going { .. }) => false,
            // A directory that was not listed yet is unfinished.
            None => match self.unfinished.get(&victim.inode) {
                None => !self.unlisted.contains(&victim.inode),
                Some(Left::Part(_)) => self.trusts.is_some() && !self.unlisted.contains(&victim.inode),
                Some(Left::Whole) => false,
            },
        }
    }
}
