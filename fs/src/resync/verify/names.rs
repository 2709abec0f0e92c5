//! Names: what each is on both sides, and under which claim that is certain.

use super::super::lane::{CopyError, Lane};
use super::super::source::{is_gone, read};
use super::findings::{Mismatch, mismatches};
use super::{Board, Certain, Directory, Job, Linked, Place, Verify, is_gone_there, node};
use crate::backing::Excluding;
use crate::control::verification::{Aspect, Repair};
use crate::operation::{InodeId, Name, NodeKind};
use crate::wire::bulk::{ToSource, ToTarget};
use crate::wire::survey::{Seen, Sight, Spot};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// Names that are compared, and held if need be, at a time.
pub(super) const NAMES_AT_A_TIME: usize = 128;

/// A name, and what is behind it on either side.
pub(super) type Sighted = (Name, Sight, Sight);

impl<'a> Verify<'a> {
    pub(super) fn directory(
        &self,
        board: &Board,
        lane: &mut Lane,
        directory: &Arc<Directory>,
    ) -> Result<(), CopyError> {
        self.findings.progress.current(Some(directory.path().into()));
        if matches!(directory.place, Place::Top(_)) {
            self.settle_top(lane, directory)?;
        }
        let there = ToTarget::Names {
            directory: directory.there.clone(),
        };
        let mut names: BTreeSet<Name> = match lane.listed(&there) {
            Ok(names) => names.into_iter().collect(),
            Err(error) if is_gone_there(&error) => return self.gone_there(board, lane, directory),
            Err(CopyError::Target { reason, .. }) => {
                let mismatch = Mismatch::new(Aspect::Unreadable, reason);
                self.report(&directory.path(), &[mismatch], self.cannot_repair());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(here) = self.store.spot(directory.inode) else {
            return Ok(());
        };
        match self.store.names_at(&here, |name| {
            names.insert(name);
        }) {
            // Removed since it was found.
            Err(errno) if is_gone(errno) => return Ok(()),
            listed => listed.map_err(read("list", directory.inode))?,
        }
        let names: Vec<Name> = names.into_iter().collect();
        for some in names.chunks(NAMES_AT_A_TIME) {
            self.names(board, lane, directory, some)?;
        }
        self.findings.directories.fetch_add(1, Ordering::Relaxed);
        self.findings.progress.finished(1);
        Ok(())
    }

    /// A directory that the secondary did not find again: its name tells whether that is as here.
    fn gone_there(
        &self,
        board: &Board,
        lane: &mut Lane,
        directory: &Arc<Directory>,
    ) -> Result<(), CopyError> {
        let held = self.hold_inodes(vec![directory.inode])?;
        let is_gone = held.gone.contains(&directory.inode);
        drop(held);
        match &directory.place {
            Place::Below(above, name) if !is_gone => {
                self.names(board, lane, above, std::slice::from_ref(name))
            }
            Place::Below(..) | Place::Top(_) => Ok(()),
        }
    }

    /// Compares these names, and goes on with what they lead to.
    pub(super) fn names(
        &self,
        board: &Board,
        lane: &mut Lane,
        directory: &Arc<Directory>,
        names: &[Name],
    ) -> Result<(), CopyError> {
        let _turn = self.wait(board, 0);
        if self.session.is_over() {
            return Err(CopyError::Over);
        }
        let Some(sights) = self.sights(lane, directory, names)? else {
            return Ok(());
        };
        let (mut certain, mut doubtful) = (Vec::new(), Vec::new());
        for (name, here, there) in sights {
            match (here, there) {
                (Sight::Vacant, Sight::Vacant) => {}
                (Sight::Node(here), Sight::Node(there))
                    if here.facts == there.facts
                        && here.facts.kind != NodeKind::Directory
                        && here.facts.links == 1 =>
                {
                    certain.push(Certain {
                        name,
                        inode: None,
                        here: *here,
                        there: *there,
                        is_first: true,
                        made: false,
                    });
                }
                _ => doubtful.push(name),
            }
        }
        if !doubtful.is_empty() {
            certain.extend(self.settle(lane, directory, &doubtful)?);
        }
        self.go_on(board, directory, certain);
        Ok(())
    }

    /// What names are at one point of the order. Gives those that lead to the same on both sides, but for the data.
    fn settle(
        &self,
        lane: &mut Lane,
        directory: &Arc<Directory>,
        names: &[Name],
    ) -> Result<Vec<Certain>, CopyError> {
        let held = self.hold_names(directory, names)?;
        if held.gone.contains(&directory.inode) {
            return Ok(Vec::new());
        }
        let Some(mut sights) = self.sights(lane, directory, names)? else {
            return Ok(Vec::new());
        };
        // What differs in more than its name may only be under way. What is equal may differ in a moment, so it is
        // not looked at again.
        let differs = |sighted: &mut Sighted| self.differs(directory, sighted);
        let doubtful: Vec<Sighted> = sights.extract_if(.., differs).collect();
        let (mut differing, mut inodes, mut names_differ) = (Vec::new(), Vec::new(), false);
        for (name, here, there) in doubtful {
            let kind = |sight| node(sight).map(|seen: &Seen| &seen.facts.kind);
            names_differ |= kind(&here) != kind(&there);
            if let Some(here) = node(&here) {
                inodes.push(self.adopt(directory, &name, here)?);
                names_differ |= self.is_linked_otherwise(directory, &name, here, &there);
            }
            differing.push(name);
        }
        if self.repair && names_differ {
            inodes.push(directory.inode);
        }
        let _inodes_held = if inodes.is_empty() {
            None
        } else {
            Some(self.hold_inodes(inodes)?)
        };
        match self.sights(lane, directory, &differing)? {
            Some(again) => sights.extend(again),
            None => return Ok(Vec::new()),
        }
        let mut certain = Vec::new();
        for sighted in sights {
            certain.extend(self.judge(lane, held.claim, directory, sighted)?);
        }
        Ok(certain)
    }

    /// True when a name may not be the same on both sides.
    fn differs(&self, directory: &Arc<Directory>, (name, here, there): &Sighted) -> bool {
        match (here, there) {
            (Sight::Vacant, Sight::Vacant) | (Sight::Mount, _) => false,
            (Sight::Node(one), Sight::Node(other)) => {
                one.facts != other.facts || self.is_linked_otherwise(directory, name, one, there)
            }
            _ => true,
        }
    }

    /// Everything about this name is held, or it was the same: reports in what it differs, repairs that if it is wanted.
    fn judge(
        &self,
        lane: &mut Lane,
        claim: crate::session::claims::ClaimId,
        directory: &Arc<Directory>,
        sighted: Sighted,
    ) -> Result<Option<Certain>, CopyError> {
        let path = directory.path_of(&sighted.0);
        if matches!(sighted.1, Sight::Mount) {
            self.session.skipped_mount(&path);
            return Ok(None);
        }
        let is_linked = |sight: &Sight| node(sight).is_some_and(|seen| seen.facts.links > 1);
        // Two names of one file, made beside each other, would become two files.
        let _one_at_a_time = (self.repair && (is_linked(&sighted.1) || is_linked(&sighted.2)))
            .then(|| self.linking.lock().unwrap_or_else(PoisonError::into_inner));
        if let (name, Sight::Node(here), Sight::Node(there)) = &sighted
            && here.facts.kind == there.facts.kind
        {
            // Before it is compared: of two that are looked at beside each other one sees the other.
            self.is_first_name(directory, name, here, there);
        }
        let mut found = self.mismatches_of(directory, &sighted);
        if self.repair {
            let (links, others): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|one| one.aspect == Aspect::Links);
            found = others;
            let name = &sighted.0;
            let later = links
                .into_iter()
                .map(|one| (directory.clone(), name.clone(), one));
            self.known().links_later.extend(later);
        }
        if found.is_empty() {
            return self.certain(directory, sighted, false);
        }
        if !self.repair {
            self.report(&path, &found, None);
            return self.certain(directory, sighted, false);
        }
        let mended = self.mend_name(lane, claim, directory, &sighted)?;
        let Some(mut again) = self.sights(lane, directory, std::slice::from_ref(&sighted.0))? else {
            return Ok(None);
        };
        let Some(again) = again.pop() else {
            return Ok(None);
        };
        let left = self.mismatches_of(directory, &again);
        let left = left.iter().any(|one| one.aspect != Aspect::Links);
        let outcome = match mended {
            Err(reason) => Repair::Failed { reason },
            Ok(()) if left => Repair::Failed {
                reason: "it still differs".to_owned(),
            },
            Ok(()) => Repair::Done,
        };
        self.report(&path, &found, Some(outcome));
        let made = |one: &Mismatch| matches!(one.aspect, Aspect::Missing | Aspect::Type | Aspect::Identity);
        self.certain(directory, again, found.iter().any(made))
    }

    /// In what a name differs, under a claim.
    fn mismatches_of(&self, directory: &Arc<Directory>, (name, here, there): &Sighted) -> Vec<Mismatch> {
        match (here, there) {
            (Sight::Vacant, Sight::Vacant) | (Sight::Mount, _) => Vec::new(),
            (Sight::Vacant, Sight::Mount) | (Sight::Node(_), Sight::Mount) => {
                vec![Mismatch::new(
                    Aspect::Unreadable,
                    "something is mounted on it there",
                )]
            }
            (Sight::Node(seen), Sight::Vacant) => {
                let detail = format!("{} here, nothing there", super::findings::kind(&seen.facts.kind));
                vec![Mismatch::new(Aspect::Missing, detail)]
            }
            (Sight::Vacant, Sight::Node(seen)) => {
                let detail = format!("nothing here, {} there", super::findings::kind(&seen.facts.kind));
                vec![Mismatch::new(Aspect::Extra, detail)]
            }
            (Sight::Node(one), Sight::Node(other)) => {
                let mut found = mismatches(&one.facts, &other.facts);
                if self.is_linked_otherwise(directory, name, one, there) {
                    let known = self.known();
                    let first = known.links.get(&key(directory, one));
                    let first = first.map(|linked| linked.directory.path_of(&linked.name));
                    found.push(Mismatch::new(
                        Aspect::Identity,
                        match first {
                            Some(first) => format!("one file with {first} here, another there"),
                            None => "a file of its own here, one with others there".to_owned(),
                        },
                    ));
                }
                found
            }
        }
    }

    /// True when the file was found under another name before, and is something else there; or the one there was, and is
    /// something else here.
    fn is_linked_otherwise(
        &self,
        directory: &Arc<Directory>,
        name: &Name,
        here: &Seen,
        there: &Sight,
    ) -> bool {
        let Some(there) = node(there).filter(|there| here.facts.kind == there.facts.kind) else {
            return false;
        };
        let known = self.known();
        let linked = known.links.get(&key(directory, here));
        let is_split = linked.is_some_and(|linked| {
            let is_first = linked.directory.inode == directory.inode && linked.name == *name;
            linked.there != there.handle && !is_first
        });
        is_split || known.is_another_here(directory, here, there)
    }

    fn certain(
        &self,
        directory: &Arc<Directory>,
        (name, here, there): Sighted,
        made: bool,
    ) -> Result<Option<Certain>, CopyError> {
        let (Sight::Node(here), Sight::Node(there)) = (here, there) else {
            return Ok(None);
        };
        if std::mem::discriminant(&here.facts.kind) != std::mem::discriminant(&there.facts.kind) {
            return Ok(None);
        }
        let inode = match here.facts.kind {
            NodeKind::Directory => Some(self.adopt(directory, &name, &here)?),
            _ => None,
        };
        Ok(Some(Certain {
            is_first: self.is_first_name(directory, &name, &here, &there),
            name,
            inode,
            here: *here,
            there: *there,
            made,
        }))
    }

    /// Directories are listed, files are read.
    fn go_on(&self, board: &Board, directory: &Arc<Directory>, certain: Vec<Certain>) {
        let mut files = Vec::new();
        for one in certain {
            if let Some(inode) = one.inode.filter(|_| one.is_directory()) {
                self.go_into(board, directory, inode, one);
            } else if !one.is_first {
                // It is compared by its first name.
            } else if one.here.facts.kind == NodeKind::File {
                self.findings.progress.found(one.here.facts.size.unwrap_or(0));
                files.push(one);
            } else {
                self.findings.others.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.read_files(board, directory, files);
    }

    fn go_into(&self, board: &Board, above: &Arc<Directory>, inode: InodeId, one: Certain) {
        let there = above.spot(&one.there.handle);
        let mut known = self.known();
        if known
            .directories
            .get(&inode)
            .is_some_and(|known| known.there == there)
        {
            return;
        }
        let directory = Arc::new(Directory {
            inode,
            there,
            place: Place::Below(above.clone(), one.name),
        });
        known.directories.insert(inode, directory.clone());
        drop(known);
        self.findings.progress.found(0);
        // Deep before wide: so few are waiting at a time.
        board.lock().queue.push_front(Job::Directory(directory));
        board.changed.notify_all();
    }

    /// Remembers what has several names. False for a further name of what is, or was, compared by another one.
    fn is_first_name(&self, directory: &Arc<Directory>, name: &Name, here: &Seen, there: &Seen) -> bool {
        if here.facts.links <= 1 && there.facts.links <= 1 {
            return true;
        }
        let mut known = self.known();
        let (found_here, found_there) = (key(directory, here), key(directory, there));
        if let Some(linked) = known.links.get(&found_here) {
            return linked.directory.inode == directory.inode && linked.name == *name;
        }
        if known.is_another_here(directory, here, there) {
            return true;
        }
        known.links_there.insert(found_there, here.handle.clone());
        known.links.insert(
            found_here,
            Linked {
                there: there.handle.clone(),
                directory: directory.clone(),
                name: name.clone(),
            },
        );
        true
    }

    /// The attributes of a replicated directory itself, which has no name.
    fn settle_top(&self, lane: &mut Lane, directory: &Arc<Directory>) -> Result<(), CopyError> {
        if self.mismatches_of_top(lane, directory)?.is_empty() {
            return Ok(());
        }
        let held = self.hold_inodes(vec![directory.inode])?;
        let found = self.mismatches_of_top(lane, directory)?;
        if found.is_empty() {
            return Ok(());
        }
        let outcome = if self.repair {
            Some(match self.mend_top(lane, held.claim, directory)? {
                Err(reason) => Repair::Failed { reason },
                Ok(()) if self.mismatches_of_top(lane, directory)?.is_empty() => Repair::Done,
                Ok(()) => Repair::Failed {
                    reason: "it still differs".to_owned(),
                },
            })
        } else {
            None
        };
        self.report(&directory.path(), &found, outcome);
        Ok(())
    }

    fn mismatches_of_top(&self, lane: &mut Lane, directory: &Directory) -> Result<Vec<Mismatch>, CopyError> {
        let (here, there) = self.tops(lane, directory)?;
        Ok(match (node(&here), node(&there)) {
            (Some(here), Some(there)) => mismatches(&here.facts, &there.facts),
            // No directory without it.
            (None, _) => Vec::new(),
            (Some(_), None) => vec![Mismatch::new(
                Aspect::Missing,
                "the directory itself is gone there",
            )],
        })
    }

    pub(super) fn tops(&self, lane: &mut Lane, directory: &Directory) -> Result<(Sight, Sight), CopyError> {
        lane.ask(&[ToTarget::Look {
            node: directory.there.clone(),
        }])?;
        let top = Spot {
            root: directory.there.root,
            handle: None,
        };
        let here = self.store.look_at(&top).map_err(read("look at", directory.inode));
        let ToSource::Surveyed { mut sights } = lane.answer()? else {
            return Err(CopyError::Confused);
        };
        let (here, Some(mut there), true) = (here?, sights.pop(), sights.is_empty()) else {
            return Err(CopyError::Confused);
        };
        if self.store.excludes_near(directory.inode)
            && let (Sight::Node(here), Sight::Node(there)) = (&here, &mut there)
        {
            same_directory_time(here, there);
        }
        Ok((here, there))
    }

    /// Numbers of names that differed before all names were repaired.
    pub(super) fn settle_links(&self, lane: &mut Lane) -> Result<(), CopyError> {
        let later = std::mem::take(&mut self.known().links_later);
        for (directory, name, mismatch) in later {
            let names = [name];
            let held = self.hold_names(&directory, &names)?;
            let mut left = false;
            if !held.gone.contains(&directory.inode)
                && let Some(sights) = self.sights(lane, &directory, &names)?
                && let [(_, Sight::Node(here), Sight::Node(_))] = &sights[..]
            {
                let [name] = &names;
                let inode = self.adopt(&directory, name, here)?;
                let _held = self.hold_inodes(vec![inode])?;
                let again = self.sights(lane, &directory, &names)?.unwrap_or_default();
                let differs = |sighted: &Sighted| {
                    let found = self.mismatches_of(&directory, sighted);
                    found.iter().any(|one| one.aspect == Aspect::Links)
                };
                left = again.iter().any(differs);
            }
            let outcome = if left {
                Repair::Failed {
                    reason: "another name of it differs".to_owned(),
                }
            } else {
                Repair::Done
            };
            let [name] = &names;
            self.report(&directory.path_of(name), &[mismatch], Some(outcome));
        }
        Ok(())
    }

    pub(super) fn report(&self, path: &str, found: &[Mismatch], outcome: Option<Repair>) {
        for mismatch in found {
            self.findings.add(mismatch.at(path, outcome.clone()));
        }
    }

    pub(super) fn cannot_repair(&self) -> Option<Repair> {
        self.repair.then(|| Repair::Failed {
            reason: "the secondary cannot read it: look at its disk".to_owned(),
        })
    }

    /// What is behind names on both sides; none when the directory is gone here.
    pub(super) fn sights(
        &self,
        lane: &mut Lane,
        directory: &Directory,
        names: &[Name],
    ) -> Result<Option<Vec<Sighted>>, CopyError> {
        let mut there = Vec::with_capacity(names.len());
        let here = self.sights_here(directory, names);
        while there.len() < names.len() {
            lane.ask(&[ToTarget::Survey {
                directory: directory.there.clone(),
                names: names[there.len()..].to_vec(),
            }])?;
            match lane.answer() {
                Ok(ToSource::Surveyed { sights })
                    if !sights.is_empty() && sights.len() <= names.len() - there.len() =>
                {
                    there.extend(sights);
                }
                Ok(_) => return Err(CopyError::Confused),
                Err(error) if is_gone_there(&error) => there.resize(names.len(), Sight::Vacant),
                Err(error) => return Err(error),
            }
        }
        let Some(here) = here? else {
            return Ok(None);
        };
        let both = names.iter().cloned().zip(here).zip(there);
        let mut sights: Vec<Sighted> = both.map(|((name, here), there)| (name, here, there)).collect();
        match self.store.excluding_in(directory.inode) {
            Ok(Some(excluding)) => sights.iter_mut().for_each(|one| leave_out(&excluding, one)),
            Ok(None) => {}
            Err(errno) if is_gone(errno) => return Ok(None),
            Err(errno) => return Err(read("find the path of", directory.inode)(errno)),
        }
        Ok(Some(sights))
    }

    fn sights_here(&self, directory: &Directory, names: &[Name]) -> Result<Option<Vec<Sight>>, CopyError> {
        let Some(spot) = self.store.spot(directory.inode) else {
            return Ok(None);
        };
        let mut here = Vec::with_capacity(names.len());
        while here.len() < names.len() {
            match self.store.survey(&spot, &names[here.len()..]) {
                Ok(sights) => here.extend(sights),
                Err(errno) if is_gone(errno) => return Ok(None),
                Err(errno) => return Err(read("look at names in", directory.inode)(errno)),
            }
        }
        Ok(Some(here))
    }
}

/// What is excluded counts as nothing on either side. Both have the same path for the directory: whatever is renamed
/// beside this keeps its side (`session/primary/survey.rs`).
fn leave_out(excluding: &Excluding<'_>, (name, here, there): &mut Sighted) {
    for sight in [&mut *here, &mut *there] {
        let is_excluded = match node(sight) {
            Some(seen) => excluding.excludes(name.as_bytes(), seen.facts.kind == NodeKind::Directory),
            // What is mounted on is a directory, or as good as one.
            None => matches!(sight, Sight::Mount) && excluding.excludes(name.as_bytes(), true),
        };
        if is_excluded {
            *sight = Sight::Vacant;
        }
    }
    if let (Sight::Node(here), Sight::Node(there)) = (here, there) {
        same_directory_time(here, there);
    }
}

/// Excluded names change the times of directories on one node only.
fn same_directory_time(here: &Seen, there: &mut Seen) {
    if here.facts.kind == NodeKind::Directory {
        there.facts.mtime = here.facts.mtime;
    }
}

impl super::Known {
    /// The file there was found under another name before, where another file is here.
    pub(super) fn is_another_here(&self, directory: &Directory, here: &Seen, there: &Seen) -> bool {
        let found = self.links_there.get(&key(directory, there));
        found.is_some_and(|other| *other != here.handle)
    }
}

fn key(directory: &Directory, here: &Seen) -> (u32, crate::operation::FileHandle) {
    (directory.there.root, here.handle.clone())
}
