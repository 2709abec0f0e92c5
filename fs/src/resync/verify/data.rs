//! Data: sums of blocks on both sides, and what to do where they are not the same.

use super::super::lane::{CopyError, Lane};
use super::super::source::{is_gone, read};
use super::findings::Mismatch;
use super::mend::bind;
use super::{Board, Certain, Directory, Job, Verify, is_gone_there, node};
use crate::control::verification::{Aspect, Repair};
use crate::operation::{FallocateMode, FileHandle, InodeId, Name, Operation, WRITE_BYTES_MAX};
use crate::session::claims::Scope;
use crate::wire::bulk::{BLOCK_BYTES, BLOCKS_MAX, Sum, ToSource, ToTarget};
use crate::wire::survey::{Seen, Spot};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Files up to this size are compared together, up to so many and so many bytes.
const SMALL_BYTES_MAX: u64 = 256 << 10;
const FILES_AT_A_TIME: usize = 64;
const BATCH_BYTES_MAX: u64 = 1 << 20;
/// Of a large file so much is compared at a time.
const STEP_BYTES: u64 = 1 << 20;
/// Of a hole so much.
const HOLE_STEP_BYTES: u64 = BLOCKS_MAX as u64 * BLOCK_BYTES;
/// Large files are shared out in pieces of this size.
const PIECE_BYTES: u64 = 64 << 20;
/// Most bytes that are compared once more, and held, at a time: some milliseconds' worth.
const HELD_BYTES_MAX: u64 = WRITE_BYTES_MAX as u64;

/// A file to read.
#[derive(Clone, Debug)]
pub(super) struct File {
    name: Name,
    here: FileHandle,
    there: FileHandle,
    size: u64,
    /// It was made there just now: that its data is missing is no news.
    made: bool,
}

/// A file that is read in pieces.
#[derive(Debug)]
pub(super) struct Large {
    directory: Arc<Directory>,
    file: File,
    pieces_left: AtomicUsize,
    differing: Mutex<Differing>,
}

/// What of a file's data differs, and what came of its repair.
#[derive(Debug, Default)]
struct Differing {
    blocks: Vec<Range<u64>>,
    repair: Option<Repair>,
    unreadable: Option<String>,
}

/// What one side says of a range.
enum Sums {
    Of(Vec<Option<Sum>>),
    Gone,
    Unreadable(String),
}

impl<'a> Verify<'a> {
    /// Makes jobs of files whose names are the same.
    pub(super) fn read_files(&self, board: &Board, directory: &Arc<Directory>, files: Vec<Certain>) {
        let (mut batch, mut bytes, mut jobs) = (Vec::new(), 0, Vec::new());
        for one in files {
            let size = one.here.facts.size.unwrap_or(0);
            let file = File {
                name: one.name,
                here: one.here.handle,
                there: one.there.handle,
                size,
                made: one.made,
            };
            if size > SMALL_BYTES_MAX {
                jobs.extend(pieces(directory, file));
                continue;
            }
            if batch.len() == FILES_AT_A_TIME || (!batch.is_empty() && bytes + size > BATCH_BYTES_MAX) {
                jobs.push(Job::Files(directory.clone(), std::mem::take(&mut batch)));
                bytes = 0;
            }
            bytes += size;
            batch.push(file);
        }
        if !batch.is_empty() {
            jobs.push(Job::Files(directory.clone(), batch));
        }
        let mut queue = board.lock();
        for job in jobs.into_iter().rev() {
            queue.queue.push_front(job);
        }
        drop(queue);
        board.changed.notify_all();
    }

    /// Small files, no more at a time than the pace allows.
    pub(super) fn files(
        &self,
        board: &Board,
        lane: &mut Lane,
        directory: &Arc<Directory>,
        mut files: Vec<File>,
    ) -> Result<(), CopyError> {
        while !files.is_empty() {
            let most = self.pace.piece(BATCH_BYTES_MAX);
            let mut bytes = 0;
            let fits = |file: &&File| {
                bytes += file.size;
                bytes <= most
            };
            let count = files.iter().take_while(fits).count().max(1);
            let some: Vec<File> = files.drain(..count).collect();
            self.some_files(board, lane, directory, &some)?;
        }
        Ok(())
    }

    fn some_files(
        &self,
        board: &Board,
        lane: &mut Lane,
        directory: &Arc<Directory>,
        files: &[File],
    ) -> Result<(), CopyError> {
        let turn = self.wait(board, files.iter().map(|file| file.size).sum());
        let read: Vec<&File> = files.iter().filter(|file| file.size > 0).collect();
        let requests: Vec<ToTarget> = read
            .iter()
            .map(|file| sums_of(directory.spot(&file.there), 0, file.size))
            .collect();
        lane.ask(&requests)?;
        let here: Vec<_> = read
            .iter()
            .map(|file| self.sums_here(directory, file, 0, file.size))
            .collect();
        let there: Vec<_> = read.iter().map(|_| sums_there(lane)).collect();
        drop(turn);
        for ((file, here), there) in read.into_iter().zip(here).zip(there) {
            let mut differing = Differing::default();
            let doubtful = doubtful_blocks(&here?, &there?, 0, file.size);
            self.settle_blocks(board, lane, directory, file, &doubtful, &mut differing)?;
            self.report_data(directory, file, differing);
        }
        for file in files {
            self.compared(file.size);
            self.file_done();
        }
        Ok(())
    }

    pub(super) fn piece(
        &self,
        board: &Board,
        lane: &mut Lane,
        large: &Arc<Large>,
        offset: u64,
        length: u64,
    ) -> Result<(), CopyError> {
        let (directory, file) = (&large.directory, &large.file);
        let path = directory.path_of(&file.name);
        self.findings.progress.current(Some(path.into()));
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let hole = self
                .store
                .is_hole(&directory.spot(&file.here), at, HOLE_STEP_BYTES.min(end - at));
            let step = match hole {
                true => HOLE_STEP_BYTES.min(end - at),
                false => self.pace.piece(STEP_BYTES).min(end - at),
            };
            let turn = self.wait(board, if hole { 0 } else { step });
            if self.session.is_over() {
                return Err(CopyError::Over);
            }
            lane.ask(&[sums_of(directory.spot(&file.there), at, step)])?;
            let here = self.sums_here(directory, file, at, step);
            let there = sums_there(lane)?;
            drop(turn);
            let doubtful = doubtful_blocks(&here?, &there, at, step);
            if !doubtful.is_empty() {
                let mut differing = Differing::default();
                self.settle_blocks(board, lane, directory, file, &doubtful, &mut differing)?;
                large
                    .differing
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .add(differing);
            }
            self.compared(step);
            at += step;
        }
        if large.pieces_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut differing = large.differing.lock().unwrap_or_else(PoisonError::into_inner);
            self.report_data(directory, file, std::mem::take(&mut differing));
            self.file_done();
        }
        Ok(())
    }

    fn compared(&self, bytes: u64) {
        self.findings.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.findings.progress.skipped(bytes);
    }

    fn file_done(&self) {
        self.findings.files.fetch_add(1, Ordering::Relaxed);
        self.findings.progress.finished(1);
    }

    fn report_data(&self, directory: &Directory, file: &File, mut differing: Differing) {
        let path = directory.path_of(&file.name);
        if let Some(reason) = differing.unreadable {
            let mismatch = Mismatch::new(Aspect::Unreadable, reason);
            self.report(&path, &[mismatch], self.cannot_repair());
        }
        let is_news = !file.made || differing.repair != Some(Repair::Done);
        if !differing.blocks.is_empty() && is_news {
            differing.blocks.sort_unstable_by_key(|block| block.start);
            self.report(&path, &[Mismatch::data(&differing.blocks)], differing.repair);
        }
    }

    /// Looks at blocks once more that seem to differ, with their changes held back.
    fn settle_blocks(
        &self,
        board: &Board,
        lane: &mut Lane,
        directory: &Arc<Directory>,
        file: &File,
        doubtful: &[Range<u64>],
        differing: &mut Differing,
    ) -> Result<(), CopyError> {
        let mut left = doubtful;
        while let Some(first) = left.first() {
            let within = |block: &&Range<u64>| block.end - first.start <= HELD_BYTES_MAX;
            let (some, rest) = left.split_at(left.iter().take_while(within).count().max(1));
            left = rest;
            if !self.settle_some(board, lane, directory, file, some, differing)? {
                break;
            }
        }
        Ok(())
    }

    /// Blocks not far from each other. False when the two files do not belong together any more.
    fn settle_some(
        &self,
        board: &Board,
        lane: &mut Lane,
        directory: &Arc<Directory>,
        file: &File,
        blocks: &[Range<u64>],
        differing: &mut Differing,
    ) -> Result<bool, CopyError> {
        let names = std::slice::from_ref(&file.name);
        let held = self.hold_names(directory, names)?;
        let Some((here, there)) = self.pair(lane, directory, names)? else {
            return Ok(false);
        };
        if here.handle != file.here {
            // What has the name now is new, or moved and is looked at once more at the end.
            return Ok(false);
        }
        if there.handle != file.there {
            // The two were not looked at in the same moment; now they are.
            let again = File {
                there: there.handle,
                ..file.clone()
            };
            board.add(Job::Files(directory.clone(), vec![again]));
            return Ok(false);
        }
        let inode = self.adopt(directory, &file.name, &here)?;
        let inodes = if self.repair { vec![inode] } else { Vec::new() };
        let ranges = blocks.iter().map(|block| (inode, whole(block))).collect();
        let _held = self.hold(Scope {
            inodes,
            ranges: if self.repair { Vec::new() } else { ranges },
            ..Scope::default()
        })?;
        let found = match self.compare_held(lane, directory, file, blocks)? {
            Ok(found) => found,
            Err(reason) => {
                differing.unreadable = Some(reason);
                return Ok(false);
            }
        };
        if found.is_empty() {
            return Ok(true);
        }
        if self.repair {
            let mended = self.mend_data(lane, held.claim, directory, file, inode, &found)?;
            let left = self.compare_held(lane, directory, file, &found)?;
            let outcome = match (mended, left) {
                (Err(reason), _) | (Ok(()), Err(reason)) => Repair::Failed { reason },
                (Ok(()), Ok(left)) if left.is_empty() => Repair::Done,
                (Ok(()), Ok(_)) => Repair::Failed {
                    reason: "it still differs".to_owned(),
                },
            };
            differing.repaired(outcome);
        }
        differing.blocks.extend(found);
        Ok(true)
    }

    /// The blocks that differ while nothing changes them, or why that cannot be told.
    fn compare_held(
        &self,
        lane: &mut Lane,
        directory: &Directory,
        file: &File,
        blocks: &[Range<u64>],
    ) -> Result<Result<Vec<Range<u64>>, String>, CopyError> {
        let mut found = Vec::new();
        for block in blocks {
            let length = block.end - block.start;
            lane.ask(&[sums_of(directory.spot(&file.there), block.start, length)])?;
            let here = self.sums_here(directory, file, block.start, length);
            let there = sums_there(lane)?;
            match (here?, there) {
                (Sums::Of(here), Sums::Of(there)) => {
                    // What one of them lacks at its end, its size tells.
                    if here.iter().zip(&there).any(|(one, other)| one != other) {
                        found.push(block.clone());
                    }
                }
                (_, Sums::Unreadable(reason)) => return Ok(Err(reason)),
                (_, Sums::Gone) => return Ok(Err("it is gone there".to_owned())),
                // It is claimed by its name: its disk lost it.
                (Sums::Gone | Sums::Unreadable(_), Sums::Of(_)) => {
                    return Ok(Err("it is gone here".to_owned()));
                }
            }
        }
        Ok(Ok(found))
    }

    /// Brings blocks of a claimed file over, and then what a write takes away from its attributes.
    fn mend_data(
        &self,
        lane: &mut Lane,
        claim: crate::session::claims::ClaimId,
        directory: &Arc<Directory>,
        file: &File,
        inode: InodeId,
        blocks: &[Range<u64>],
    ) -> Result<super::mend::Mended, CopyError> {
        let names = std::slice::from_ref(&file.name);
        let Some((here, _)) = self.pair(lane, directory, names)? else {
            return Ok(Err("it is gone".to_owned()));
        };
        let time = Some(here.facts.mtime);
        let mut operations = vec![bind(inode, directory.inode, &file.name)];
        for block in blocks {
            let length = (block.end - block.start) as usize;
            let data = self.store.read(inode, block.start, length);
            let data = data.map_err(read("read", inode))?;
            if data.is_empty() {
                continue;
            }
            operations.push(if data.iter().all(|byte| *byte == 0) {
                Operation::Fallocate {
                    inode,
                    mode: FallocateMode::PunchHole,
                    offset: block.start,
                    length: data.len() as u64,
                    time,
                    set_mode: None,
                }
            } else {
                Operation::Write {
                    inode,
                    offset: block.start,
                    data,
                    time,
                    mode: None,
                }
            });
        }
        if let Err(reason) = self.session.mend(claim, operations)? {
            return Ok(Err(reason));
        }
        let Some((here, there)) = self.pair(lane, directory, names)? else {
            return Ok(Err("it is gone".to_owned()));
        };
        if here.facts == there.facts {
            return Ok(Ok(()));
        }
        let mut operations = vec![bind(inode, directory.inode, &file.name)];
        self.give(inode, &here.facts, Some(&there.facts), &mut operations)?;
        self.session.mend(claim, operations)
    }

    /// Both sides of one claimed name.
    fn pair(
        &self,
        lane: &mut Lane,
        directory: &Directory,
        names: &[Name],
    ) -> Result<Option<(Seen, Seen)>, CopyError> {
        let mut sights = self.sights(lane, directory, names)?.unwrap_or_default();
        let Some((_, here, there)) = sights.pop() else {
            return Ok(None);
        };
        Ok(match (node(&here), node(&there)) {
            (Some(here), Some(there)) => Some((here.clone(), there.clone())),
            _ => None,
        })
    }

    fn sums_here(
        &self,
        directory: &Directory,
        file: &File,
        offset: u64,
        length: u64,
    ) -> Result<Sums, CopyError> {
        match self.store.sums(&directory.spot(&file.here), offset, length) {
            Ok(sums) => Ok(Sums::Of(sums)),
            Err(errno) if is_gone(errno) => Ok(Sums::Gone),
            Err(errno) => Err(read("read a file in", directory.inode)(errno)),
        }
    }
}

impl Differing {
    fn add(&mut self, other: Differing) {
        self.blocks.extend(other.blocks);
        if let Some(repair) = other.repair {
            self.repaired(repair);
        }
        if other.unreadable.is_some() {
            self.unreadable = other.unreadable;
        }
    }

    /// One block that is not repaired spoils the file.
    fn repaired(&mut self, outcome: Repair) {
        if !matches!(self.repair, Some(Repair::Failed { .. })) {
            self.repair = Some(outcome);
        }
    }
}

fn pieces(directory: &Arc<Directory>, file: File) -> Vec<Job> {
    let count = file.size.div_ceil(PIECE_BYTES).max(1);
    let large = Arc::new(Large {
        directory: directory.clone(),
        file,
        pieces_left: AtomicUsize::new(count as usize),
        differing: Mutex::default(),
    });
    let piece = |index: u64| Job::Piece {
        file: large.clone(),
        offset: index * PIECE_BYTES,
        length: PIECE_BYTES.min(large.file.size - index * PIECE_BYTES),
    };
    (0..count).map(piece).collect()
}

fn sums_of(file: Spot, offset: u64, length: u64) -> ToTarget {
    ToTarget::Sums { file, offset, length }
}

fn sums_there(lane: &mut Lane) -> Result<Sums, CopyError> {
    match lane.answer() {
        Ok(ToSource::Summed { sums }) => Ok(Sums::Of(sums)),
        Ok(_) => Err(CopyError::Confused),
        Err(error) if is_gone_there(&error) => Ok(Sums::Gone),
        Err(CopyError::Target { reason, .. }) => Ok(Sums::Unreadable(reason)),
        Err(error) => Err(error),
    }
}

/// The blocks of a range that are not the same for certain.
fn doubtful_blocks(here: &Sums, there: &Sums, offset: u64, length: u64) -> Vec<Range<u64>> {
    let block = |index: usize| {
        let start = offset + index as u64 * BLOCK_BYTES;
        start..(start + BLOCK_BYTES).min(offset + length)
    };
    match (here, there) {
        (Sums::Gone, _) => Vec::new(),
        (Sums::Of(here), Sums::Of(there)) => {
            let common = here.iter().zip(there).enumerate();
            common
                .filter(|(_, (one, other))| one != other)
                .map(|(index, _)| block(index))
                .collect()
        }
        // Everything: it ends at the first that cannot be compared.
        (Sums::Of(_) | Sums::Unreadable(_), _) => {
            (0..length.div_ceil(BLOCK_BYTES) as usize).map(block).collect()
        }
    }
}

/// To the end of its block: a file may grow within its last one.
fn whole(block: &Range<u64>) -> Range<u64> {
    block.start..block.end.next_multiple_of(BLOCK_BYTES)
}
