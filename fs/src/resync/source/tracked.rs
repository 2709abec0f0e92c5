//! The beginning of a tracked copy: the target is told of every inode that the dirty map speaks of, before a name is
//! changed there; then the names that the map marks are brought over.
//!
//! What cannot be told apart for certain is never guessed: a file that has several names and is not found again on the
//! target ends the tracked copy, and a whole one follows ([`CopyError::NeedsWhole`]).

use super::super::lane::{CopyError, Lane};
use super::Source;
use super::files::{is_gone, kind_of, read};
use super::jobs::{Board, Job};
use super::names::NAMES_AT_A_TIME;
use crate::backing::{Above, Stat};
use crate::dirty::{Content, Place, Plan};
use crate::hash::HashMap;
use crate::operation::{FileHandle, InodeId, Name};
use crate::session::claims::Scope;
use crate::session::coverage::Brought;
use crate::wire::bulk::{By, Identify};
use rustix::fs::FileType;
use std::collections::BTreeSet;

/// Inodes that the target is told of at a time.
const NODES_AT_A_TIME: usize = 256;
/// Directories above each other at most; the kernel's own limit of a path in bytes is lower.
const DEPTH_MAX: usize = 1 << 16;

/// What a tracked copy begins with.
#[derive(Debug, Clone)]
pub struct Known {
    /// What may differ.
    pub plan: Plan,
    /// How the target finds inodes again.
    pub peers: HashMap<InodeId, FileHandle>,
    /// No name was moved on the target since the parting: where the map says that it has an inode, it is.
    pub places: bool,
}

impl Source<'_> {
    /// Tells the target of what the map speaks of.
    pub(super) fn identify_known(&self, lane: &mut Lane, known: &Known) -> Result<(), CopyError> {
        let mut by_handle = Vec::new();
        let mut by_place = Vec::new();
        for (inode, marks) in &known.plan.nodes {
            if marks.content == Content::Fresh || self.session.is_bound(*inode) {
                continue;
            }
            match (known.peers.get(inode), &marks.place) {
                (Some(handle), _) => by_handle.push((*inode, By::Handle(handle.clone()))),
                (None, Some(place)) if known.places => by_place.push((*inode, place.clone())),
                (None, _) => {}
            }
        }
        self.identify(lane, by_handle)?;
        while !by_place.is_empty() {
            let (ready, rest): (Vec<_>, Vec<_>) = by_place
                .into_iter()
                .partition(|(_, place)| self.session.is_bound(place.parent));
            by_place = rest;
            if ready.is_empty() {
                let before = by_place.len();
                let mut parents: Vec<InodeId> = by_place.iter().map(|(_, place)| place.parent).collect();
                parents.sort_unstable();
                parents.dedup();
                let mut told = BTreeSet::new();
                for parent in parents {
                    if self.tell(lane, parent)? {
                        told.insert(parent);
                    }
                }
                if told.is_empty() {
                    tracing::debug!(
                        before,
                        "inodes whose directories are not known to the target are left to their names"
                    );
                    break;
                }
                continue;
            }
            let by = |(inode, Place { parent, name })| (inode, By::Place { parent, name });
            self.identify(lane, ready.into_iter().map(by).collect())?;
        }
        self.refuse_what_is_linked_and_unknown(known)
    }

    /// A file with several names, of which the target may have others than those that are marked: taken for a new one
    /// it would be linked wrongly there.
    fn refuse_what_is_linked_and_unknown(&self, known: &Known) -> Result<(), CopyError> {
        for (inode, marks) in &known.plan.nodes {
            if marks.content == Content::Fresh || self.session.is_bound(*inode) {
                continue;
            }
            let Some(status) = self.status(*inode)? else {
                continue;
            };
            if kind_of(&status) != FileType::Directory && status.st_nlink > 1 {
                return Err(CopyError::NeedsWhole(format!(
                    "{inode} has {} names and is not found again on the secondary",
                    status.st_nlink
                )));
            }
        }
        Ok(())
    }

    /// As above, for what a marked name leads to and the map does not speak of.
    pub(super) fn refuse_unknown_links(&self, inode: InodeId, status: &Stat) -> Result<(), CopyError> {
        let may_differ =
            self.known.is_some() && status.st_nlink > 1 && kind_of(status) != FileType::Directory;
        if may_differ && !self.session.is_bound(inode) && !self.session.is_fresh(inode) {
            return Err(CopyError::NeedsWhole(format!(
                "{inode} has {} names, and it is not known which of them the secondary has",
                status.st_nlink
            )));
        }
        Ok(())
    }

    /// Asks the target for these; those that it finds it knows by their numbers from now on.
    fn identify(&self, lane: &mut Lane, nodes: Vec<(InodeId, By)>) -> Result<(), CopyError> {
        for some in nodes.chunks(NODES_AT_A_TIME) {
            let mut asked = Vec::with_capacity(some.len());
            for (inode, by) in some {
                let Some(status) = self.status(*inode)? else {
                    continue;
                };
                let Some((root, handle)) = self.store.place(*inode) else {
                    continue;
                };
                asked.push(Identify {
                    inode: *inode,
                    root: root as u32,
                    kind: self.kind(*inode, &status)?,
                    handle,
                    by: by.clone(),
                });
            }
            if asked.is_empty() {
                continue;
            }
            let inodes: Vec<InodeId> = asked.iter().map(|node| node.inode).collect();
            let handles = lane.identify(asked)?;
            let found: Vec<(InodeId, FileHandle)> = inodes
                .into_iter()
                .zip(handles)
                .filter_map(|(inode, handle)| Some((inode, handle?)))
                .collect();
            self.session.identified(found)?;
        }
        Ok(())
    }

    /// Tells the target of an inode by its names, from the nearest directory that it knows. False when one of them is
    /// stale or not known.
    pub(super) fn tell(&self, lane: &mut Lane, inode: InodeId) -> Result<bool, CopyError> {
        let mut chain = Vec::new();
        let mut next = inode;
        while !self.session.is_bound(next) {
            let Some((parent, name)) = self.place_here(next)? else {
                return Ok(false);
            };
            if chain.len() > DEPTH_MAX || !self.session.is_clean(parent, &name) {
                return Ok(false);
            }
            chain.push((next, parent, name));
            next = parent;
        }
        for (inode, parent, name) in chain.into_iter().rev() {
            if !self.tell_one(lane, inode, parent, &name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Nobody changes the name while the target looks it up.
    fn tell_one(
        &self,
        lane: &mut Lane,
        inode: InodeId,
        parent: InodeId,
        name: &Name,
    ) -> Result<bool, CopyError> {
        let scope = Scope {
            names: Some((parent, vec![name.clone()])),
            ..Scope::default()
        };
        let is_clean = self.session.is_clean(parent, name);
        let (claim, gone) = self.session.claim(scope)?;
        let mut brought = Brought::default();
        if is_clean {
            // As it was.
            brought.names.push(name.clone());
        }
        let told = if gone.contains(&parent) || !self.session.is_clean(parent, name) {
            Ok(false)
        } else {
            self.tell_claimed(lane, inode, parent, name)
        };
        self.session.release(claim, brought);
        told
    }

    fn tell_claimed(
        &self,
        lane: &mut Lane,
        inode: InodeId,
        parent: InodeId,
        name: &Name,
    ) -> Result<bool, CopyError> {
        if self.session.is_bound(inode) {
            return Ok(true);
        }
        let is_here = match self.store.look_up(parent, name) {
            Ok(found) => self.store.place(inode) == Some((found.root, found.handle)),
            Err(errno) if is_gone(errno) => false,
            Err(errno) => return Err(read("look up a name in", parent)(errno)),
        };
        if !is_here {
            return Ok(false);
        }
        let by = By::Place {
            parent,
            name: name.clone(),
        };
        self.identify(lane, vec![(inode, by)])?;
        Ok(self.session.is_bound(inode))
    }

    pub(super) fn place_here(&self, inode: InodeId) -> Result<Option<(InodeId, Name)>, CopyError> {
        if let Some(place) = self.session.place_of(inode) {
            return Ok(Some(place));
        }
        match self.store.directory_place(inode) {
            Ok(Some(Above { root, handle, name })) => Ok(Some((self.session.adopt(root, &handle)?, name))),
            Ok(None) => Ok(None),
            Err(errno) if is_gone(errno) => Ok(None),
            Err(errno) => Err(read("find the directory of", inode)(errno)),
        }
    }

    /// The first jobs: what the map says of names.
    pub(super) fn begin_known(&self, board: &Board, lane: &mut Lane, known: &Known) -> Result<(), CopyError> {
        let plan = &known.plan;
        let mut queue = Vec::new();
        for (inode, marks) in &plan.nodes {
            if marks.content == Content::Whole
                && self.session.is_bound(*inode)
                && let Some(status) = self.status(*inode)?
                && kind_of(&status) == FileType::Directory
            {
                queue.push(Job::Directory(*inode));
            }
        }
        for directory in &plan.additions {
            if self.is_whole(plan, *directory) || !self.tell(lane, *directory)? {
                continue;
            }
            let marked = plan.names.get(directory).cloned().unwrap_or_default();
            queue.push(Job::Additions(*directory, marked));
        }
        for (directory, names) in &plan.names {
            if plan.additions.contains(directory)
                || self.is_whole(plan, *directory)
                || !self.tell(lane, *directory)?
            {
                continue;
            }
            let names: Vec<Name> = names.iter().cloned().collect();
            let job = |names: &[Name]| Job::Names(*directory, names.to_vec());
            queue.extend(names.chunks(NAMES_AT_A_TIME).map(job));
        }
        board.lock().queue.extend(queue);
        Ok(())
    }

    fn is_whole(&self, plan: &Plan, directory: InodeId) -> bool {
        plan.nodes
            .get(&directory)
            .is_some_and(|marks| matches!(marks.content, Content::Whole | Content::Fresh))
    }

    /// A directory that got new names, of which it is not known which: those that only one side has, and those that
    /// are marked.
    pub(super) fn additions(
        &self,
        board: &Board,
        lane: &mut Lane,
        directory: InodeId,
        marked: &BTreeSet<Name>,
    ) -> Result<(), CopyError> {
        self.progress.current(self.store.path(directory));
        self.session.begin_listing(directory);
        let there: BTreeSet<Name> = lane
            .list(directory, self.path_of(directory)?)?
            .into_iter()
            .collect();
        let mut here = BTreeSet::new();
        self.names_here(directory, &mut here)?;
        let mut names: BTreeSet<&Name> = here.symmetric_difference(&there).collect();
        let new: Vec<Name> = names.iter().map(|name| (*name).clone()).collect();
        // Once they are brought over they do not show that they were new.
        self.session.mark_names(directory, &new)?;
        names.extend(marked);
        let names: Vec<Name> = names.into_iter().cloned().collect();
        for some in names.chunks(NAMES_AT_A_TIME) {
            self.place(board, lane, directory, some)?;
        }
        self.session.end_listing(directory);
        Ok(())
    }
}
