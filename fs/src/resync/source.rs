//! The source's side of a copy: walks this node's tree, brings names over, then data, then what is left.
//!
//! Threads, one for each [`Lane`], take jobs from one board; a step ends when the board is empty and nobody works.
//! Each claims what it is about to read (`session/coverage.rs`), reads it, sends it, waits for the answer, and gives
//! the claim back with what the target has now. Nothing is remembered for a copy that is interrupted: the next one
//! begins anew and finds equal what is equal.

use super::lane::{CopyError, Lane};
use super::progress::{Orders, Progress, Step};
use crate::backing::{Found, Segment, Stat, Store, has_zero_page};
use crate::operation::{Errno, FileHandle, InodeId, Name, NodeKind};
use crate::session::coverage::{Brought, ClaimId, Rest, Scope};
use crate::wire::bulk::{BLOCK_BYTES, Block, DATA_BYTES_MAX, Entry, Node, Placed, Sum, ToSource, ToTarget};
use bytes::Bytes;
use rustix::fs::FileType;
use rustix::io::Errno as System;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Names that are brought over, and held, at a time.
const NAMES_AT_A_TIME: usize = 128;
/// Nodes whose attributes, and small files that, are brought over at a time.
const NODES_AT_A_TIME: usize = 64;
/// Files up to this size are held as a whole while they are sent.
const SMALL_BYTES_MAX: u64 = 256 << 10;
/// Most bytes of small files at a time.
const BATCH_BYTES_MAX: u64 = 1 << 20;
/// Of a large file so much is held, and sent, at a time.
const STEP_BYTES: u64 = DATA_BYTES_MAX as u64;
/// Large files are shared out in pieces of this size.
const PIECE_BYTES: u64 = 16 << 20;
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
    pub store: &'a Store,
    /// Where progress is told.
    pub progress: &'a Progress,
    /// What it was told.
    pub orders: &'a Orders,
    /// Inodes that the target is being told of now. A further name of one, in another request, waits for that.
    pub binding: Mutex<HashSet<InodeId>>,
}

/// A node that has its name on the target and neither data nor attributes.
#[derive(Debug, Clone, Copy)]
struct Unfinished {
    inode: InodeId,
    /// Bytes, of a regular file.
    size: Option<u64>,
    /// Made on the target just now: there is nothing to compare with.
    new: bool,
}

/// A large file under way.
#[derive(Debug)]
struct Large {
    inode: InodeId,
    new: bool,
    pieces_left: AtomicUsize,
}

#[derive(Debug)]
enum Job {
    /// Compare a directory's names and bring them over.
    Directory(InodeId),
    /// Bring these names over again.
    Names(InodeId, Vec<Name>),
    /// Small files, and nodes without data.
    Nodes(Vec<Unfinished>),
    /// The first step of a large file.
    Large(Unfinished),
    /// Part of a large file.
    Piece {
        file: Arc<Large>,
        offset: u64,
        length: u64,
    },
    /// Nothing but attributes.
    Attributes(Vec<InodeId>),
}

/// Jobs and who works on them.
#[derive(Default)]
struct Board {
    state: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    working: usize,
    failed: Option<CopyError>,
    /// Found by the names step, for the next one.
    nodes: Vec<Unfinished>,
}

impl Source<'_> {
    /// Copies everything. The pair is in sync when this returns well.
    ///
    /// # Errors
    /// [`CopyError`]; the target is mixed then.
    pub fn run(&self, lanes: &mut [Lane]) -> Result<(), CopyError> {
        let board = Board::default();
        let roots = (0..self.store.directories()).map(InodeId::root);
        board.lock().queue.extend(roots.map(Job::Directory));
        let mut rounds = 0;
        loop {
            self.work_off(&board, lanes)?;
            let rest = self.session.rest();
            let nodes = std::mem::take(&mut board.lock().nodes);
            if let Some((directory, names)) = rest.stale.first() {
                rounds += 1;
                if rounds > ROUNDS_MAX {
                    return Err(CopyError::Stuck {
                        count: rest.stale.iter().map(|(_, names)| names.len()).sum(),
                        directory: *directory,
                        name: names[0].clone(),
                    });
                }
                let mut jobs = board.lock();
                jobs.nodes = nodes;
                for (directory, names) in rest.stale {
                    let chunks = names.chunks(NAMES_AT_A_TIME);
                    let job = |names: &[Name]| Job::Names(directory, names.to_vec());
                    jobs.queue.extend(chunks.map(job));
                }
            } else if !nodes.is_empty() {
                self.progress.step(Step::Files);
                board.lock().queue.extend(jobs_of(nodes));
            } else if !rest.unfinished.is_empty() {
                self.progress.step(Step::Attributes);
                self.finish_rest(&board, &rest.unfinished)?;
            } else if self.session.done() {
                self.progress.step(Step::End);
                return Ok(());
            }
            if self.session.is_over() {
                return Err(CopyError::Over);
            }
        }
    }

    /// Directories get their attributes; anything else that is left is compared whole.
    fn finish_rest(&self, board: &Board, unfinished: &[InodeId]) -> Result<(), CopyError> {
        let mut attributes = Vec::new();
        let mut nodes = Vec::new();
        for inode in unfinished {
            match self.status(*inode)? {
                Some(status) if kind_of(&status) == FileType::RegularFile => nodes.push(Unfinished {
                    inode: *inode,
                    size: Some(size_of(&status)),
                    new: false,
                }),
                // What is gone by now is told when it is claimed.
                Some(_) | None => attributes.push(*inode),
            }
        }
        let mut jobs = board.lock();
        let chunks = attributes.chunks(NODES_AT_A_TIME);
        jobs.queue
            .extend(chunks.map(|some| Job::Attributes(some.to_vec())));
        jobs.queue.extend(jobs_of(nodes));
        Ok(())
    }

    /// Runs jobs on all lanes until there is none.
    fn work_off(&self, board: &Board, lanes: &mut [Lane]) -> Result<(), CopyError> {
        std::thread::scope(|scope| {
            for lane in lanes {
                scope.spawn(|| {
                    while let Some(job) = board.take() {
                        let result = self.work(board, lane, job);
                        board.end(result);
                    }
                });
            }
        });
        match board.lock().failed.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn work(&self, board: &Board, lane: &mut Lane, job: Job) -> Result<(), CopyError> {
        if self.session.is_over() {
            return Err(CopyError::Over);
        }
        match job {
            Job::Directory(directory) => self.directory(board, lane, directory),
            Job::Names(directory, names) => self.place(board, lane, directory, &names),
            Job::Nodes(nodes) => self.nodes(board, lane, &nodes),
            Job::Large(file) => self.large(board, lane, file),
            Job::Piece { file, offset, length } => self.piece(lane, &file, offset, length),
            Job::Attributes(inodes) => {
                self.orders.wait(0, || self.session.is_over());
                self.attributes(lane, &inodes)
            }
        }
    }

    fn directory(&self, board: &Board, lane: &mut Lane, directory: InodeId) -> Result<(), CopyError> {
        self.progress.current(self.store.path(directory));
        self.session.begin_listing(directory);
        let mut names: BTreeSet<Name> = lane.list(directory)?.into_iter().collect();
        self.names_here(directory, &mut names)?;
        let names: Vec<Name> = names.into_iter().collect();
        for some in names.chunks(NAMES_AT_A_TIME) {
            self.place(board, lane, directory, some)?;
        }
        self.session.end_listing(directory);
        Ok(())
    }

    fn names_here(&self, directory: InodeId, names: &mut BTreeSet<Name>) -> Result<(), CopyError> {
        let listing = match self.store.open_directory(directory) {
            Ok(listing) => listing,
            Err(errno) if is_gone(errno) => return Ok(()),
            Err(errno) => return Err(read("list", directory)(errno)),
        };
        listing
            .read(0, |entry| {
                // The dots are no names. Anything else that is none cannot be reached by an application either.
                names.extend(Name::new(entry.name));
                ControlFlow::Continue(())
            })
            .map_err(read("list", directory))
    }

    /// Brings names over; what they lead to for the first time becomes a job or waits for the files step.
    fn place(
        &self,
        board: &Board,
        lane: &mut Lane,
        directory: InodeId,
        names: &[Name],
    ) -> Result<(), CopyError> {
        self.orders.wait(0, || self.session.is_over());
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
                    jobs.nodes.push(Unfinished { inode, size, new });
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
        let mut bound = HashSet::new();
        for name in names {
            let found = match self.store.look_up(directory, name) {
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
        let request = ToTarget::Place { directory, entries };
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

    /// None when another request is telling the target of this inode.
    fn node(&self, found: &Found, bound: &mut HashSet<InodeId>) -> Result<Option<Node>, CopyError> {
        let inode = self.session.adopt(found.root, &found.handle)?;
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
        let kind = match kind_of(&found.status) {
            FileType::RegularFile => NodeKind::File,
            FileType::Directory => NodeKind::Directory,
            FileType::Symlink => {
                let target = self.store.link_target(inode);
                NodeKind::Symlink(Bytes::from(target.map_err(read("read the target of", inode))?))
            }
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::CharacterDevice => NodeKind::CharacterDevice(found.status.st_rdev),
            FileType::BlockDevice => NodeKind::BlockDevice(found.status.st_rdev),
            FileType::Unknown => return Err(read("tell the type of", inode)(System::INVAL.into())),
        };
        Ok(Some(Node {
            inode,
            known,
            kind,
            handle: found.handle.clone(),
        }))
    }

    /// Locked while it is asked whether an inode is bound, and after it was noted to be: so nobody misses both.
    fn binding(&self) -> MutexGuard<'_, HashSet<InodeId>> {
        self.binding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Small files whole, other nodes' attributes.
    fn nodes(&self, board: &Board, lane: &mut Lane, nodes: &[Unfinished]) -> Result<(), CopyError> {
        let bytes = nodes.iter().filter_map(|node| node.size).sum();
        self.orders.wait(bytes, || self.session.is_over());
        let equal = self.compare_small(lane, nodes)?;
        let scope = Scope {
            inodes: nodes.iter().map(|node| node.inode).collect(),
            ..Scope::default()
        };
        let (claim, gone) = self.session.claim(scope)?;
        let mut brought = Brought::default();
        let mut sent = Sent::default();
        let result = self.send_nodes(board, nodes, &equal, &gone, &mut brought, &mut sent);
        let result = result.and_then(|requests| lane.write(&requests));
        if result.is_err() {
            brought = Brought::default();
        }
        let finished = nodes.len() as u64;
        self.session.release(claim, brought);
        result?;
        self.progress.sent(sent.data);
        self.progress.skipped(sent.skipped);
        self.progress.finished(finished);
        Ok(())
    }

    fn send_nodes(
        &self,
        board: &Board,
        nodes: &[Unfinished],
        equal: &HashMap<InodeId, u64>,
        gone: &[InodeId],
        brought: &mut Brought,
        sent: &mut Sent,
    ) -> Result<Vec<ToTarget>, CopyError> {
        let mut requests = Vec::new();
        for node in nodes {
            let Some(status) = self.status(node.inode)?.filter(|_| !gone.contains(&node.inode)) else {
                continue;
            };
            if node.size.is_some() {
                let size = size_of(&status);
                if size > 4 * SMALL_BYTES_MAX {
                    // It has grown since it was found.
                    let again = Unfinished {
                        size: Some(size),
                        ..*node
                    };
                    board.add(Job::Large(again));
                    continue;
                }
                // With another size it has grown, and what the target has behind its old end is not known.
                let data = equal.get(&node.inode) != Some(&size);
                self.data_of(node, 0, size, |_| data, &mut requests, sent)?;
            }
            requests.push(self.attributes_of(node.inode)?);
            brought.finished.push(node.inode);
        }
        Ok(requests)
    }

    /// Which files of these the target has already, with the size at which they were compared. Nothing is held for
    /// that: what compares equal stays so, because every change of it is shipped.
    fn compare_small(
        &self,
        lane: &mut Lane,
        nodes: &[Unfinished],
    ) -> Result<HashMap<InodeId, u64>, CopyError> {
        let mut blocks = Vec::new();
        let mut whole = HashMap::new();
        for node in nodes.iter().filter(|node| !node.new) {
            let Some(size) = self.status(node.inode)?.map(|status| size_of(&status)) else {
                continue;
            };
            if node.size.is_none() || size > 4 * SMALL_BYTES_MAX {
                continue;
            }
            whole.insert(node.inode, size);
            for segment in self.segments(node.inode, 0, size)? {
                if segment.is_data && !self.sums(node.inode, &segment, &mut blocks)? {
                    whole.remove(&node.inode);
                }
            }
        }
        for (block, equal) in self.compare(lane, &blocks)? {
            if !equal {
                whole.remove(&block.inode);
            }
        }
        Ok(whole)
    }

    fn compare(&self, lane: &mut Lane, blocks: &[Block]) -> Result<Vec<(Block, bool)>, CopyError> {
        let mut compared = Vec::with_capacity(blocks.len());
        for some in blocks.chunks(crate::wire::bulk::BLOCKS_MAX) {
            let blocks = some.to_vec();
            let answers = lane.exchange(&[ToTarget::Compare { blocks }])?;
            let [ToSource::Compared { equal }] = &answers[..] else {
                return Err(CopyError::Confused);
            };
            if equal.len() != some.len() {
                return Err(CopyError::Confused);
            }
            compared.extend(some.iter().copied().zip(equal.iter().copied()));
        }
        Ok(compared)
    }

    /// The sums of a run of data, block by block. False when it is not all data after all: there is more to do than
    /// to compare.
    fn sums(&self, inode: InodeId, run: &Segment, blocks: &mut Vec<Block>) -> Result<bool, CopyError> {
        let mut all = true;
        let mut unsettled = Some(run.offset..run.end());
        let mut offset = run.offset;
        while offset < run.end() {
            let length = block_length(offset, run.end());
            let data = self.read(inode, offset, length)?;
            if data.is_empty() {
                break;
            }
            let layout = self.layout(inode, offset, &data, &mut unsettled)?;
            if layout.iter().all(|part| part.is_data) {
                blocks.push(Block {
                    inode,
                    offset,
                    length: data.len() as u32,
                    sum: Sum::of(&data),
                });
            } else {
                all = false;
            }
            offset += length;
        }
        Ok(all)
    }

    /// What brings a range over. `wanted` tells which data, by its offset; a target that had the file before needs
    /// the holes as well.
    fn data_of(
        &self,
        node: &Unfinished,
        offset: u64,
        length: u64,
        wanted: impl Fn(u64) -> bool,
        requests: &mut Vec<ToTarget>,
        sent: &mut Sent,
    ) -> Result<(), CopyError> {
        let inode = node.inode;
        let mut unsettled = Some(offset..offset + length);
        for segment in self.segments(inode, offset, length)? {
            if !segment.is_data {
                sent.skipped += segment.length;
                if !node.new {
                    requests.push(ToTarget::Hole {
                        inode,
                        offset: segment.offset,
                        length: segment.length,
                    });
                }
                continue;
            }
            let mut at = segment.offset;
            while at < segment.end() {
                // Without anything to compare with, in one piece.
                let length = if node.new {
                    segment.end().saturating_sub(at).min(DATA_BYTES_MAX as u64)
                } else {
                    block_length(at, segment.end())
                };
                if wanted(at) {
                    let data = self.read(inode, at, length)?;
                    if data.is_empty() {
                        break;
                    }
                    for part in self.layout(inode, at, &data, &mut unsettled)? {
                        let (offset, length) = (part.offset, part.length);
                        if part.is_data {
                            let start = (offset - at) as usize;
                            sent.data += length;
                            requests.push(ToTarget::Data {
                                inode,
                                offset,
                                data: data.slice(start..start + length as usize),
                            });
                        } else {
                            sent.skipped += length;
                            if !node.new {
                                requests.push(ToTarget::Hole {
                                    inode,
                                    offset,
                                    length,
                                });
                            }
                        }
                    }
                } else {
                    sent.skipped += length;
                }
                at += length;
            }
        }
        Ok(())
    }

    /// What of this data, read at `offset`, is data. What was allocated and never written looks like it while the
    /// kernel has it in its cache, where it is nothing but zeroes.
    ///
    /// `unsettled` is the range that `data` belongs to, until it has been looked at more closely once.
    fn layout(
        &self,
        inode: InodeId,
        offset: u64,
        data: &[u8],
        unsettled: &mut Option<Range<u64>>,
    ) -> Result<Vec<Segment>, CopyError> {
        let length = data.len() as u64;
        if !has_zero_page(data) {
            return Ok(vec![Segment {
                offset,
                length,
                is_data: true,
            }]);
        }
        if let Some(range) = unsettled.take() {
            match self.store.settle(inode, range.start, range.end - range.start) {
                Err(errno) if !is_gone(errno) => return Err(read("look behind the cache of", inode)(errno)),
                Ok(()) | Err(_) => {}
            }
        }
        self.segments(inode, offset, length)
    }

    /// A file that is not held as a whole. One that the target had before gets its size first: data that only the
    /// target has must not come back when the file grows here.
    fn large(&self, board: &Board, lane: &mut Lane, file: Unfinished) -> Result<(), CopyError> {
        self.progress.current(self.store.path(file.inode));
        if !file.new {
            self.hold_and_send_attributes(lane, &[file.inode], false)?;
        }
        let size = self.status(file.inode)?.map_or(0, |status| size_of(&status));
        let pieces = size.div_ceil(PIECE_BYTES).max(1);
        let large = Arc::new(Large {
            inode: file.inode,
            new: file.new,
            pieces_left: AtomicUsize::new(pieces as usize),
        });
        let piece = |index: u64| Job::Piece {
            file: large.clone(),
            offset: index * PIECE_BYTES,
            length: PIECE_BYTES.min(size.saturating_sub(index * PIECE_BYTES)),
        };
        let mut jobs = board.lock();
        // Before other files, so that a file once begun ends soon.
        for index in (0..pieces).rev() {
            jobs.queue.push_front(piece(index));
        }
        drop(jobs);
        board.changed.notify_all();
        Ok(())
    }

    fn piece(&self, lane: &mut Lane, file: &Large, offset: u64, length: u64) -> Result<(), CopyError> {
        self.progress.current(self.store.path(file.inode));
        let mut at = offset;
        while at < offset + length {
            let step = STEP_BYTES.min(offset + length - at);
            self.orders.wait(step, || self.session.is_over());
            if self.session.is_over() {
                return Err(CopyError::Over);
            }
            if !self.step(lane, file, at, step)? {
                break;
            }
            at += step;
        }
        if file.pieces_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.hold_and_send_attributes(lane, &[file.inode], true)?;
            self.progress.finished(1);
        }
        Ok(())
    }

    /// One held range of a large file. False when the file is gone.
    fn step(&self, lane: &mut Lane, file: &Large, offset: u64, length: u64) -> Result<bool, CopyError> {
        let inode = file.inode;
        let segments = self.segments(inode, offset, length)?;
        let mut sent = Sent::default();
        let mut equal = HashMap::new();
        if file.new {
            // What is written here from now on is shipped.
            if segments.iter().all(|segment| !segment.is_data) {
                self.progress.skipped(length);
                return Ok(true);
            }
        } else {
            let mut blocks = Vec::new();
            let mut all = true;
            for segment in segments.iter().filter(|segment| segment.is_data) {
                all &= self.sums(inode, segment, &mut blocks)?;
            }
            let compared = self.compare(lane, &blocks)?;
            all &= compared.iter().all(|(_, equal)| *equal);
            if all && segments.iter().all(|segment| segment.is_data) {
                self.progress.skipped(length);
                return Ok(true);
            }
            equal = compared
                .into_iter()
                .map(|(block, equal)| ((block.offset, u64::from(block.length)), equal))
                .collect();
        }
        let scope = Scope {
            range: Some((inode, offset..offset + length)),
            ..Scope::default()
        };
        let (claim, gone) = self.session.claim(scope)?;
        let result = if gone.contains(&inode) {
            Ok(())
        } else {
            let node = Unfinished {
                inode,
                size: None,
                new: file.new,
            };
            let mut requests = Vec::new();
            // A block that compared equal stays so, whole: what changes it is shipped.
            let wanted = |at: u64| {
                let length = block_length(at, offset + length);
                !equal.get(&(at, length)).copied().unwrap_or(false)
            };
            self.data_of(&node, offset, length, wanted, &mut requests, &mut sent)
                .and_then(|()| lane.write(&requests))
        };
        self.session.release(claim, Brought::default());
        result?;
        self.progress.sent(sent.data);
        self.progress.skipped(sent.skipped);
        Ok(!gone.contains(&inode))
    }

    fn attributes(&self, lane: &mut Lane, inodes: &[InodeId]) -> Result<(), CopyError> {
        self.hold_and_send_attributes(lane, inodes, true)
    }

    fn hold_and_send_attributes(
        &self,
        lane: &mut Lane,
        inodes: &[InodeId],
        finished: bool,
    ) -> Result<(), CopyError> {
        let scope = Scope {
            inodes: inodes.to_vec(),
            ..Scope::default()
        };
        let (claim, gone) = self.session.claim(scope)?;
        let there: Vec<InodeId> = inodes
            .iter()
            .copied()
            .filter(|inode| !gone.contains(inode))
            .collect();
        let requests: Result<Vec<_>, _> = there.iter().map(|inode| self.attributes_of(*inode)).collect();
        let result = requests.and_then(|requests| lane.write(&requests));
        let mut brought = Brought::default();
        if finished && result.is_ok() {
            brought.finished = there;
        }
        self.session.release(claim, brought);
        result
    }

    fn attributes_of(&self, inode: InodeId) -> Result<ToTarget, CopyError> {
        let attributes = self
            .store
            .all_attributes(inode)
            .map_err(read("read the attributes of", inode))?;
        Ok(ToTarget::Attributes {
            inode,
            attributes: Box::new(attributes),
        })
    }

    fn status(&self, inode: InodeId) -> Result<Option<Stat>, CopyError> {
        match self.store.status(inode) {
            Ok(status) => Ok(Some(status)),
            Err(errno) if is_gone(errno) => Ok(None),
            Err(errno) => Err(read("look at", inode)(errno)),
        }
    }

    fn segments(&self, inode: InodeId, offset: u64, length: u64) -> Result<Vec<Segment>, CopyError> {
        if length == 0 {
            return Ok(Vec::new());
        }
        match self.store.data_segments(inode, offset, length) {
            Err(errno) if is_gone(errno) => Ok(Vec::new()),
            result => result.map_err(read("find the holes of", inode)),
        }
    }

    fn read(&self, inode: InodeId, offset: u64, length: u64) -> Result<Bytes, CopyError> {
        match self.store.read(inode, offset, length as usize) {
            Err(errno) if is_gone(errno) => Ok(Bytes::new()),
            result => result.map_err(read("read", inode)),
        }
    }
}

/// Bytes of one batch.
#[derive(Debug, Default)]
struct Sent {
    data: u64,
    skipped: u64,
}

impl Board {
    /// The next job; none when a step is over or has failed.
    fn take(&self) -> Option<Job> {
        let mut jobs = self.lock();
        loop {
            if jobs.failed.is_some() {
                return None;
            }
            if let Some(job) = jobs.queue.pop_front() {
                jobs.working += 1;
                return Some(job);
            }
            if jobs.working == 0 {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end(&self, result: Result<(), CopyError>) {
        let mut jobs = self.lock();
        jobs.working -= 1;
        if let Err(error) = result {
            // The first one tells more than those that follow from it.
            jobs.failed.get_or_insert(error);
        }
        drop(jobs);
        self.changed.notify_all();
    }

    fn add(&self, job: Job) {
        self.lock().queue.push_back(job);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        // A thread that panics ends the scope it runs in, and the copy with it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Small files together, large ones alone.
fn jobs_of(nodes: Vec<Unfinished>) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for node in nodes {
        let size = node.size.unwrap_or(0);
        if size > SMALL_BYTES_MAX {
            jobs.push(Job::Large(node));
            continue;
        }
        if batch.len() >= NODES_AT_A_TIME || (!batch.is_empty() && bytes + size > BATCH_BYTES_MAX) {
            jobs.push(Job::Nodes(std::mem::take(&mut batch)));
            bytes = 0;
        }
        batch.push(node);
        bytes += size;
    }
    if !batch.is_empty() {
        jobs.push(Job::Nodes(batch));
    }
    jobs
}

/// From `offset` to the end of its block, or to `end`.
fn block_length(offset: u64, end: u64) -> u64 {
    (BLOCK_BYTES - offset % BLOCK_BYTES).min(end.saturating_sub(offset))
}

fn kind_of(status: &Stat) -> FileType {
    FileType::from_raw_mode(status.st_mode)
}

fn size_of(status: &Stat) -> u64 {
    status.st_size.cast_unsigned()
}

/// The inode or the name is not there any more.
fn is_gone(errno: Errno) -> bool {
    errno == Errno::from(System::STALE) || errno == Errno::from(System::NOENT)
}

fn read(attempt: &'static str, inode: InodeId) -> impl Fn(Errno) -> CopyError {
    move |errno| CopyError::Read {
        attempt,
        inode,
        errno,
    }
}
