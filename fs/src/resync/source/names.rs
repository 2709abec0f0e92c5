//! Bringing names over: directories are compared, and what a name leads to is made known to the target.

use super::super::lane::{CopyError, Lane};
use super::Source;
use super::files::{is_gone, kind_of, read, size_of};
use super::jobs::{Board, Job, Unfinished};
use crate::backing::{Found, Stat};
use crate::hash::HashSet;
use crate::operation::{Errno, InodeId, Name, NodeKind};
use crate::session::claims::Scope;
use crate::session::coverage::Brought;
use crate::wire::bulk::{Entry, Node, Placed, ToSource, ToTarget};
use bytes::Bytes;
use rustix::fs::FileType;
use rustix::io::Errno as System;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

/// Names that are brought over, and held, at a time.
pub(super) const NAMES_AT_A_TIME: usize = 128;

impl Source<'_> {
    pub(super) fn directory(
        &self,
        board: &Board,
        lane: &mut Lane,
        directory: InodeId,
    ) -> Result<(), CopyError> {
        self.progress.current(self.store.path(directory));
        self.session.begin_listing(directory);
        let mut names: BTreeSet<Name> = match lane.list(directory, self.path_of(directory)?) {
            Ok(names) => names.into_iter().collect(),
            // Removed on both sides since it was found.
            Err(CopyError::Target { errno, .. }) if is_gone(errno) && self.session.is_gone(directory) => {
                BTreeSet::new()
            }
            Err(error) => return Err(error),
        };
        self.names_here(directory, &mut names)?;
        let names: Vec<Name> = names.into_iter().collect();
        for some in names.chunks(NAMES_AT_A_TIME) {
            self.place(board, lane, directory, some)?;
        }
        self.session.end_listing(directory);
        Ok(())
    }

    /// By which the target knows what is excluded of a directory; empty where nothing is, and of one that is gone.
    pub(super) fn path_of(&self, directory: InodeId) -> Result<Bytes, CopyError> {
        match self.store.excluding(directory) {
            Ok(Some(excluding)) => Ok(Bytes::copy_from_slice(excluding.path())),
            Ok(None) => Ok(Bytes::new()),
            Err(errno) if is_gone(errno) => Ok(Bytes::new()),
            Err(errno) => Err(read("find the path of", directory)(errno)),
        }
    }

    pub(super) fn names_here(&self, directory: InodeId, names: &mut BTreeSet<Name>) -> Result<(), CopyError> {
        let listed = self.store.names(directory, &mut |name| {
            names.insert(name);
        });
        match listed {
            // Removed since it was found.
            Err(errno) if is_gone(errno) => Ok(()),
            listed => listed.map_err(read("list", directory)),
        }
    }

    /// Brings names over; what they lead to for the first time becomes a job or waits for the files step.
    pub(super) fn place(
        &self,
        board: &Board,
        lane: &mut Lane,
        directory: InodeId,
        names: &[Name],
    ) -> Result<(), CopyError> {
        let _turn = self.wait(board, 0);
        let scope = Scope {
            names: Some((directory, names.to_vec())),
            ..Scope::default()
        };
        let (claim, gone) = self.session.claim(scope)?;
        let mut brought = Brought::default();
        let mut found = Vec::new();
        if !gone.contains(&directory) {
            match self.place_claimed(lane, directory, names, &mut brought) {
                Ok(new) => found = new,
                Err(error) => {
                    self.session.release(claim, Brought::default());
                    return Err(error);
                }
            }
        }
        let placed = brought.names.len() as u64;
        self.placed.fetch_add(placed, Ordering::Relaxed);
        let bound: Vec<InodeId> = brought.bound.iter().map(|(inode, _)| *inode).collect();
        self.session.release(claim, brought);
        let mut binding = self.binding();
        for inode in bound {
            binding.remove(&inode);
        }
        drop(binding);
        let mut jobs = board.lock();
        for (inode, status, new) in found {
            match kind_of(&status) {
                FileType::Directory => {
                    self.progress.found(0);
                    jobs.queue.push_back(Job::Directory(inode));
                }
                kind => {
                    let size = (kind == FileType::RegularFile).then(|| size_of(&status));
                    self.progress.found(size.unwrap_or(0));
                    jobs.later.push(Unfinished { inode, size, new });
                }
            }
        }
        drop(jobs);
        board.changed.notify_all();
        Ok(())
    }

    fn place_claimed(
        &self,
        lane: &mut Lane,
        directory: InodeId,
        names: &[Name],
        brought: &mut Brought,
    ) -> Result<Vec<(InodeId, Stat, bool)>, CopyError> {
        let mut entries = Vec::with_capacity(names.len());
        let mut statuses = Vec::with_capacity(names.len());
        // Told of by this very request.
        let mut bound = HashSet::default();
        let excluding = match self.store.excluding(directory) {
            Ok(excluding) => excluding,
            Err(errno) if is_gone(errno) => return Ok(Vec::new()),
            Err(errno) => return Err(read("find the path of", directory)(errno)),
        };
        for name in names {
            let found = match self.store.look_up(directory, name) {
                // Of this node only: the target has nothing that is replicated under it.
                Ok(found)
                    if excluding.as_ref().is_some_and(|excluding| {
                        excluding.excludes(name.as_bytes(), kind_of(&found.status) == FileType::Directory)
                    }) =>
                {
                    None
                }
                Ok(found) => Some(found),
                Err(errno) if is_gone(errno) => None,
                Err(errno) if errno == Errno::from(System::XDEV) => {
                    self.session.skipped_mount(directory, name);
                    brought.names.push(name.clone());
                    continue;
                }
                Err(errno) => return Err(read("look up a name in", directory)(errno)),
            };
            let node = match &found {
                Some(found) => match self.node(found, &mut bound)? {
                    Some(node) if self.may_uncover(directory, name, &node) => {
                        return Err(CopyError::NeedsWhole(format!(
                            "the directory \"{name}\" was renamed, and what is excluded below it depends on its path"
                        )));
                    }
                    Some(node) => Some(node),
                    // The name stays stale, and the next round finds the inode bound.
                    None => continue,
                },
                None => None,
            };
            entries.push(Entry {
                name: name.clone(),
                node,
            });
            statuses.push(found.map(|found| found.status));
        }
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let request = ToTarget::Place {
            directory,
            entries,
            sole: self.known.is_some(),
            path: excluding.map_or_else(Bytes::new, |excluding| Bytes::copy_from_slice(excluding.path())),
        };
        let answers = lane.exchange(std::slice::from_ref(&request))?;
        let ToTarget::Place { entries, .. } = request else {
            return Err(CopyError::Confused);
        };
        let [ToSource::Placed { outcomes }] = &answers[..] else {
            return Err(CopyError::Confused);
        };
        if outcomes.len() != entries.len() {
            return Err(CopyError::Confused);
        }
        let mut new_here = Vec::new();
        for ((entry, status), outcome) in entries.into_iter().zip(statuses).zip(outcomes) {
            match (outcome, entry.node, status) {
                (Placed::Vacant, None, None) => brought.names.push(entry.name),
                (Placed::There { handle, new }, Some(node), Some(status)) => {
                    brought.names.push(entry.name);
                    if !node.known {
                        brought.bound.push((node.inode, handle.clone()));
                        new_here.push((node.inode, status, *new));
                    }
                }
                // Stays stale. What it would have bound is not bound, and a second name of it in this request
                // said that it was: the next round tells it right.
                (Placed::Blocked, Some(_), Some(_)) => {}
                _ => return Err(CopyError::Confused),
            }
        }
        Ok(new_here)
    }

    /// Whether the target may move a directory by being told of its name, with what it has excluded in it, which nothing
    /// tells of: by the new path that may not be excluded.
    fn may_uncover(&self, directory: InodeId, name: &Name, node: &Node) -> bool {
        let Some(known) = self.known.as_ref().filter(|_| node.known) else {
            return false;
        };
        let marks = known.plan.nodes.get(&node.inode);
        let place = marks
            .and_then(|marks| marks.place.as_ref())
            .filter(|_| known.places);
        let is_there = place.is_some_and(|place| (place.parent, &place.name) == (directory, name));
        node.kind == NodeKind::Directory && !is_there && self.store.renames_reach_far(directory)
    }

    /// None when another request is telling the target of this inode.
    fn node(&self, found: &Found, bound: &mut HashSet<InodeId>) -> Result<Option<Node>, CopyError> {
        let inode = self.session.adopt(found.root, &found.handle)?;
        self.refuse_unknown_links(inode, &found.status)?;
        let mut binding = self.binding();
        let known = if self.session.is_bound(inode) || bound.contains(&inode) {
            true
        } else if binding.insert(inode) {
            bound.insert(inode);
            false
        } else {
            return Ok(None);
        };
        drop(binding);
        let kind = self.kind(inode, &found.status)?;
        Ok(Some(Node {
            inode,
            known,
            kind,
            handle: found.handle.clone(),
        }))
    }

    /// What an inode is.
    pub(super) fn kind(&self, inode: InodeId, status: &Stat) -> Result<NodeKind, CopyError> {
        Ok(match kind_of(status) {
            FileType::RegularFile => NodeKind::File,
            FileType::Directory => NodeKind::Directory,
            FileType::Symlink => {
                let target = self.store.link_target(inode);
                NodeKind::Symlink(Bytes::from(target.map_err(read("read the target of", inode))?))
            }
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::CharacterDevice => NodeKind::CharacterDevice(status.st_rdev),
            FileType::BlockDevice => NodeKind::BlockDevice(status.st_rdev),
            FileType::Unknown => return Err(read("tell the type of", inode)(System::INVAL.into())),
        })
    }

    /// Locked while it is asked whether an inode is bound, and after it was noted to be: so nobody misses both.
    fn binding(&self) -> MutexGuard<'_, HashSet<InodeId>> {
        self.binding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
