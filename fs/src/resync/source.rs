//! The source's side of a copy: walks this node's tree, brings names over, then data, then what is left.
//!
//! Threads, one for each [`Lane`], take jobs from one board; a step ends when the board is empty and nobody works.
//! Each claims what it is about to read (`session/claims.rs`), reads it, sends it, waits for the answer, and gives
//! the claim back with what the target has now. Nothing is remembered for a copy that is interrupted: the next one
//! begins anew and finds equal what is equal.

use super::lane::{CopyError, Lane};
use super::pace::{Pace, Turn};
use super::progress::{Orders, Progress, Step};
use crate::hash::HashSet;
use crate::operation::{FileHandle, InodeId, Name};
use crate::session::claims::{ClaimId, Scope};
use crate::session::coverage::{Brought, Left, Rest};
use crate::wire::bulk::ToTarget;
pub use disk::Files;
use files::{NODES_AT_A_TIME, kind_of, size_of};
pub(super) use files::{is_gone, read};
pub use hunch::Hunch;
use jobs::{Board, Job, Unfinished, jobs_of};
use names::NAMES_AT_A_TIME;
use rustix::fs::FileType;
use std::num::NonZeroU64;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
pub use tracked::Known;

mod disk;
mod files;
mod hunch;
mod jobs;
mod names;
mod tracked;

/// Rounds over names that block each other; each round brings at least one over unless they change all the time.
const ROUNDS_MAX: usize = 1000;

/// The rest of the primary, as a copy sees it.
pub trait Session: Sync {
    /// The copy's session is over.
    fn is_over(&self) -> bool;
    /// As [`crate::session::primary::Event::ListingBegun`].
    fn begin_listing(&self, directory: InodeId);
    /// As [`crate::session::primary::Event::ListingEnded`].
    fn end_listing(&self, directory: InodeId);
    /// Waits for a claim. The inodes of it that have no name any more.
    ///
    /// # Errors
    /// [`CopyError::Over`].
    fn claim(&self, scope: Scope) -> Result<(ClaimId, Vec<InodeId>), CopyError>;
    /// Gives a claim back.
    fn release(&self, claim: ClaimId, brought: Brought);
    /// The number of an inode, which keeps it until the copy is over.
    ///
    /// # Errors
    /// [`CopyError::Over`].
    fn adopt(&self, root: usize, handle: &FileHandle) -> Result<InodeId, CopyError>;
    /// The target was told of the inode.
    fn is_bound(&self, inode: InodeId) -> bool;
    /// The inode has no name any more.
    fn is_gone(&self, inode: InodeId) -> bool;
    /// In a tracked copy: the target has the same under this name.
    fn is_clean(&self, directory: InodeId, name: &Name) -> bool;
    /// It was made while this node was alone: the target never had it.
    fn is_fresh(&self, inode: InodeId) -> bool;
    /// The directory and name of an inode after every operation numbered so far, if one is known.
    fn place_of(&self, inode: InodeId) -> Option<(InodeId, Name)>;
    /// The target knows these inodes by their numbers from now on. How it finds them is durable when this returns.
    ///
    /// # Errors
    /// [`CopyError::Over`], also when it cannot be written down.
    fn identified(&self, found: Vec<(InodeId, FileHandle)>) -> Result<(), CopyError>;
    /// These names of a directory, which one side only has, are in the map, durably, when this returns.
    ///
    /// # Errors
    /// [`CopyError::NeedsWhole`].
    fn mark_names(&self, directory: InodeId, names: &[Name]) -> Result<(), CopyError>;
    /// What is left.
    fn rest(&self) -> Rest;
    /// Everything is brought over: true if that is so, and the pair in sync from now on.
    fn done(&self) -> bool;
    /// A directory that something is mounted on, which is left out.
    fn skipped_mount(&self, directory: InodeId, name: &Name);
}

/// One copy.
pub struct Source<'a> {
    /// The primary.
    pub session: &'a dyn Session,
    /// Its files.
    pub store: &'a dyn Files,
    /// Where progress is told.
    pub progress: &'a Progress,
    /// What it was told.
    pub orders: &'a Orders,
    /// How much of it may be under way.
    pub pace: &'a Pace,
    /// Inodes that the target is being told of now. A further name of one, in another request, waits for that.
    pub binding: Mutex<HashSet<InodeId>>,
    /// Names brought over so far.
    pub placed: AtomicU64,
    /// Whether what it is about to send is compared first.
    pub hunch: Hunch,
    /// What a tracked copy begins with; none for a whole one.
    pub known: Option<Known>,
    /// The size of an extent of the dirty map, in bytes.
    pub extent_bytes: NonZeroU64,
}

impl Source<'_> {
    /// Copies everything. The pair is in sync when this returns well.
    ///
    /// # Errors
    /// [`CopyError`]; the target is mixed then.
    pub fn run(&self, lanes: &mut [Lane]) -> Result<(), CopyError> {
        let board = Board::default();
        match (&self.known, lanes.first_mut()) {
            (Some(known), Some(lane)) => {
                self.identify_known(lane, known)?;
                self.begin_known(&board, lane, known)?;
            }
            (Some(_) | None, _) => {
                let roots = (0..self.store.directories()).map(InodeId::root);
                board.lock().queue.extend(roots.map(Job::Directory));
            }
        }
        let (mut rounds, mut placed) = (0, 0);
        loop {
            board.work_off(lanes, |lane, job| self.work(&board, lane, job))?;
            let rest = self.session.rest();
            let nodes = std::mem::take(&mut board.lock().later);
            if let Some((directory, names)) = rest.stale.first() {
                let now = self.placed.load(Ordering::Relaxed);
                rounds = if now > placed { 0 } else { rounds + 1 };
                placed = now;
                if rounds > ROUNDS_MAX {
                    if self.known.is_some() {
                        let directory = *directory;
                        tracing::warn!(%directory, name = %names[0], path = ?self.store.path(directory),
                            bound = self.session.is_bound(directory), place = ?self.place_here(directory)?,
                            "what the map names does not lead to a name that is stale");
                        return Err(CopyError::NeedsWhole(format!(
                            "names in {directory} cannot be brought over one by one"
                        )));
                    }
                    return Err(CopyError::Stuck {
                        count: rest.stale.iter().map(|(_, names)| names.len()).sum(),
                        directory: *directory,
                        name: names[0].clone(),
                    });
                }
                let mut queue = Vec::new();
                for (directory, names) in rest.stale {
                    if !self.can_be_asked(lanes, directory)? {
                        continue;
                    }
                    let chunks = names.chunks(NAMES_AT_A_TIME);
                    let job = |names: &[Name]| Job::Names(directory, names.to_vec());
                    queue.extend(chunks.map(job));
                }
                let mut jobs = board.lock();
                jobs.later = nodes;
                jobs.queue.extend(queue);
            } else if let unlisted @ [_, ..] = &self.unlisted(lanes, &rest.unlisted)?[..] {
                let mut jobs = board.lock();
                jobs.later = nodes;
                jobs.queue.extend(unlisted.iter().copied().map(Job::Directory));
            } else if !nodes.is_empty() {
                self.progress.step(Step::Files);
                board.lock().queue.extend(jobs_of(nodes));
            } else if !rest.unfinished.is_empty() {
                self.progress.step(Step::Attributes);
                self.finish_rest(&board, lanes, rest.unfinished)?;
            } else if let Some(directory) = rest.unlisted.first() {
                return Err(CopyError::NeedsWhole(format!(
                    "{directory}, which the secondary cannot be told of, may hold what it lacks"
                )));
            } else if rest.is_empty() {
                self.progress.step(Step::End);
                if let Some(lane) = lanes.first_mut() {
                    lane.write(&[ToTarget::Settle])?;
                }
                if self.session.done() {
                    return Ok(());
                }
            }
            if self.session.is_over() {
                return Err(CopyError::Over);
            }
        }
    }

    /// Directories get their attributes; anything else that is left is compared whole.
    fn finish_rest(
        &self,
        board: &Board,
        lanes: &mut [Lane],
        unfinished: Vec<(InodeId, Left)>,
    ) -> Result<(), CopyError> {
        let mut attributes = Vec::new();
        let mut nodes = Vec::new();
        let mut parts = Vec::new();
        for (inode, left) in unfinished {
            let is_there = !self.session.is_gone(inode) && self.status(inode)?.is_some();
            if is_there && !self.can_be_asked(lanes, inode)? {
                return Err(CopyError::NeedsWhole(format!(
                    "{inode} has changed, and the secondary cannot be told which one it is"
                )));
            }
            match (self.status(inode)?, left) {
                (Some(status), Left::Whole) if kind_of(&status) == FileType::RegularFile => {
                    self.found_by_map(size_of(&status));
                    nodes.push(Unfinished {
                        inode,
                        size: Some(size_of(&status)),
                        new: false,
                    });
                }
                (Some(status), Left::Part(extents))
                    if kind_of(&status) == FileType::RegularFile && !extents.is_empty() =>
                {
                    parts.push(Job::Part(inode, extents));
                }
                // What is gone by now is told when it is claimed.
                (Some(_) | None, _) => {
                    self.found_by_map(0);
                    attributes.push(inode);
                }
            }
        }
        let mut jobs = board.lock();
        jobs.queue.extend(parts);
        let chunks = attributes.chunks(NODES_AT_A_TIME);
        jobs.queue
            .extend(chunks.map(|some| Job::Attributes(some.to_vec())));
        jobs.queue.extend(jobs_of(nodes));
        Ok(())
    }

    /// Which of these are directories that can be listed.
    fn unlisted(&self, lanes: &mut [Lane], inodes: &[InodeId]) -> Result<Vec<InodeId>, CopyError> {
        let mut directories = Vec::new();
        for inode in inodes {
            let is_directory = |status| kind_of(&status) == FileType::Directory;
            if self.status(*inode)?.is_some_and(is_directory) && self.can_be_asked(lanes, *inode)? {
                directories.push(*inode);
            }
        }
        Ok(directories)
    }

    /// In a whole copy it was counted when its name was found.
    fn found_by_map(&self, bytes: u64) {
        if self.known.is_some() {
            self.progress.found(bytes);
        }
    }

    /// The target knows the inode, or could be told of it just now.
    fn can_be_asked(&self, lanes: &mut [Lane], inode: InodeId) -> Result<bool, CopyError> {
        match (&self.known, lanes.first_mut()) {
            (Some(_), Some(lane)) => self.tell(lane, inode),
            (Some(_) | None, _) => Ok(true),
        }
    }

    /// Waits until so many bytes more may be brought over, or somebody has failed. They are under way until what
    /// this gives is dropped.
    fn wait(&self, board: &Board, bytes: u64) -> Turn<'_> {
        board.turn(self.orders, self.pace, bytes, || self.session.is_over())
    }

    fn work(&self, board: &Board, lane: &mut Lane, job: Job) -> Result<(), CopyError> {
        if self.session.is_over() {
            return Err(CopyError::Over);
        }
        match job {
            Job::Directory(directory) => self.directory(board, lane, directory),
            Job::Names(directory, names) => self.place(board, lane, directory, &names),
            Job::Nodes(nodes) => self.nodes(board, lane, &nodes),
            Job::Additions(directory, marked) => self.additions(board, lane, directory, &marked),
            Job::Large(file) => self.large(board, lane, file),
            Job::Part(inode, extents) => self.part(board, lane, inode, &extents),
            Job::Ranges { file, ranges } => self.ranges(board, lane, &file, &ranges),
            Job::Piece { file, offset, length } => self.piece(board, lane, &file, offset, length),
            Job::Attributes(inodes) => {
                let _turn = self.wait(board, 0);
                self.attributes(lane, &inodes)
            }
        }
    }
}
