//! Bringing data and attributes over: small files whole, large ones range by range, and only blocks that differ.

use super::super::lane::{CopyError, Lane};
use super::Source;
use super::jobs::{Board, Job, Large, Unfinished};
use crate::backing::{Segment, Stat, has_zero_page};
use crate::dirty::Extents;
use crate::hash::{HashMap, HashSet};
use crate::operation::{Errno, InodeId};
use crate::session::claims::Scope;
use crate::session::coverage::Brought;
use crate::wire::bulk::{BLOCK_BYTES, BLOCKS_MAX, Block, DATA_BYTES_MAX, Sum, ToSource, ToTarget};
use bytes::Bytes;
use rustix::fs::FileType;
use rustix::io::Errno as System;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Nodes whose attributes, and small files that, are brought over at a time.
pub(super) const NODES_AT_A_TIME: usize = 64;
/// Files up to this size are held as a whole while they are sent.
pub(super) const SMALL_BYTES_MAX: u64 = 256 << 10;
/// Most bytes of small files at a time.
pub(super) const BATCH_BYTES_MAX: u64 = 1 << 20;
/// A small file that has grown beyond this is a large one.
const GROWN_BYTES_MAX: u64 = 4 * SMALL_BYTES_MAX;
/// Of a large file so much is held, and sent, at a time.
const STEP_BYTES: u64 = DATA_BYTES_MAX as u64;
/// Ranges of one file that are held together.
const RANGES_AT_A_TIME: usize = 64;
/// Large files are shared out in pieces of this size.
const PIECE_BYTES: u64 = 16 << 20;

/// Bytes of one batch.
#[derive(Debug, Default)]
struct Sent {
    data: u64,
    skipped: u64,
}

/// What the target was found to have, without holding anything: what compares equal stays so, because every change of
/// it is shipped to both.
#[derive(Debug, Default)]
struct Compared {
    /// The size of each file when it was compared. With another one it has grown or shrunk since, and what the
    /// target has behind its old end is not known.
    sizes: HashMap<InodeId, u64>,
    /// Blocks: inode, offset and length.
    equal: HashSet<(InodeId, u64, u64)>,
}

impl Source<'_> {
    /// Small files whole, other nodes' attributes; no more at a time than the pace allows.
    pub(super) fn nodes(
        &self,
        board: &Board,
        lane: &mut Lane,
        nodes: &[Unfinished],
    ) -> Result<(), CopyError> {
        let mut left = nodes;
        while !left.is_empty() {
            let most = self.pace.piece(BATCH_BYTES_MAX);
            let mut bytes = 0;
            let fits = |node: &&Unfinished| {
                bytes += node.size.unwrap_or(0);
                bytes <= most
            };
            let (some, others) = left.split_at(left.iter().take_while(fits).count().max(1));
            self.some_nodes(board, lane, some)?;
            left = others;
        }
        Ok(())
    }

    fn some_nodes(&self, board: &Board, lane: &mut Lane, nodes: &[Unfinished]) -> Result<(), CopyError> {
        let bytes = nodes.iter().filter_map(|node| node.size).sum();
        let _turn = self.wait(board, bytes);
        if nodes.iter().any(|node| !node.new && node.size.is_some()) {
            self.let_earlier_operations_end(nodes)?;
        }
        let compared = self.compare_small(lane, nodes)?;
        let scope = Scope {
            inodes: nodes.iter().map(|node| node.inode).collect(),
            ..Scope::default()
        };
        let (claim, gone) = self.session.claim(scope)?;
        let mut brought = Brought::default();
        let mut sent = Sent::default();
        let result = self.send_nodes(board, nodes, &compared, &gone, &mut brought, &mut sent);
        let result = result.and_then(|requests| lane.write(&requests));
        if result.is_err() {
            brought = Brought::default();
        }
        let finished = brought.finished.len() as u64;
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
        compared: &Compared,
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
                if size > GROWN_BYTES_MAX {
                    // It has grown since it was found.
                    let again = Unfinished {
                        size: Some(size),
                        ..*node
                    };
                    board.add(Job::Large(again));
                    continue;
                }
                let same_size = compared.sizes.get(&node.inode) == Some(&size);
                let wanted = |at, length| {
                    let block = (node.inode, at, length);
                    !(same_size && compared.equal.contains(&block))
                };
                self.data_of(node, 0, size, wanted, &mut requests, sent)?;
            }
            requests.push(self.attributes_of(node.inode)?);
            brought.finished.push(node.inode);
        }
        Ok(requests)
    }

    /// Waits for what was numbered before the target had these files, and is applied here only: after that every
    /// change of them is shipped.
    fn let_earlier_operations_end(&self, nodes: &[Unfinished]) -> Result<(), CopyError> {
        let scope = Scope {
            inodes: nodes.iter().map(|node| node.inode).collect(),
            ..Scope::default()
        };
        let (claim, _) = self.session.claim(scope)?;
        self.session.release(claim, Brought::default());
        Ok(())
    }

    /// Which blocks of these files the target has already.
    fn compare_small(&self, lane: &mut Lane, nodes: &[Unfinished]) -> Result<Compared, CopyError> {
        let mut compared = Compared::default();
        let mut blocks = Vec::new();
        for node in nodes.iter().filter(|node| !node.new && node.size.is_some()) {
            let Some(size) = self.status(node.inode)?.map(|status| size_of(&status)) else {
                continue;
            };
            if size > GROWN_BYTES_MAX {
                continue;
            }
            compared.sizes.insert(node.inode, size);
            for segment in self.segments(node.inode, 0, size)? {
                if segment.is_data {
                    self.sums(node.inode, &segment, &mut blocks)?;
                }
            }
        }
        let found = self.compare(lane, &blocks)?.into_iter();
        let equal = found.filter(|(_, equal)| *equal);
        compared.equal = equal
            .map(|(block, _)| (block.inode, block.offset, u64::from(block.length)))
            .collect();
        Ok(compared)
    }

    fn compare(&self, lane: &mut Lane, blocks: &[Block]) -> Result<Vec<(Block, bool)>, CopyError> {
        let mut compared = Vec::with_capacity(blocks.len());
        for some in blocks.chunks(BLOCKS_MAX) {
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

    /// What brings a range over. `wanted` tells which data, by offset and length; a target that had the file before
    /// needs the holes as well.
    fn data_of(
        &self,
        node: &Unfinished,
        offset: u64,
        length: u64,
        wanted: impl Fn(u64, u64) -> bool,
        requests: &mut Vec<ToTarget>,
        sent: &mut Sent,
    ) -> Result<(), CopyError> {
        let inode = node.inode;
        let end = self.status(inode)?.map_or(0, |status| size_of(&status));
        let hole = |offset: u64, length: u64, requests: &mut Vec<ToTarget>| {
            if node.new {
                return;
            }
            // A hole that ends with the file: the target's last block, which may be data, goes as a whole.
            let length = if offset + length == end {
                (offset + length).next_multiple_of(BLOCK_BYTES) - offset
            } else {
                length
            };
            requests.push(ToTarget::Hole {
                inode,
                offset,
                length,
            });
        };
        let mut unsettled = Some(offset..offset + length);
        for segment in self.segments(inode, offset, length)? {
            if !segment.is_data {
                sent.skipped += segment.length;
                hole(segment.offset, segment.length, requests);
                continue;
            }
            let mut at = segment.offset;
            while at < segment.end() {
                let is_wanted = node.new || wanted(at, block_length(at, segment.end()));
                let length = if node.new {
                    // Without anything to compare with, in one piece.
                    segment.end().saturating_sub(at).min(DATA_BYTES_MAX as u64)
                } else if is_wanted {
                    wanted_length(at, segment.end(), &wanted)
                } else {
                    block_length(at, segment.end())
                };
                if is_wanted {
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
                            hole(offset, length, requests);
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
    pub(super) fn large(&self, board: &Board, lane: &mut Lane, file: Unfinished) -> Result<(), CopyError> {
        self.progress.current(self.store.path(file.inode));
        // It also waits for what was numbered before the target had the file, and is applied here only.
        self.hold_and_send_attributes(lane, &[file.inode], false)?;
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

    pub(super) fn piece(
        &self,
        board: &Board,
        lane: &mut Lane,
        file: &Large,
        offset: u64,
        length: u64,
    ) -> Result<(), CopyError> {
        self.progress.current(self.store.path(file.inode));
        let mut at = offset;
        while at < offset + length {
            let step = self.pace.piece(STEP_BYTES).min(offset + length - at);
            let _turn = self.wait(board, step);
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

    /// A file that the target has but for these extents.
    pub(super) fn part(
        &self,
        board: &Board,
        lane: &mut Lane,
        inode: InodeId,
        extents: &Extents,
    ) -> Result<(), CopyError> {
        self.progress.current(self.store.path(inode));
        // Its size first, as for any file that the target had; and it waits for what was applied here only.
        self.hold_and_send_attributes(lane, &[inode], false)?;
        let size = self.status(inode)?.map_or(0, |status| size_of(&status));
        let ranges = extents.byte_ranges(self.extent_bytes, size);
        self.progress
            .found(ranges.map(|range| range.end - range.start).sum());
        let (mut batches, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
        for range in extents.byte_ranges(self.extent_bytes, size) {
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min((at / STEP_BYTES + 1) * STEP_BYTES);
                if bytes + (end - at) > STEP_BYTES || batch.len() == RANGES_AT_A_TIME {
                    batches.push(std::mem::take(&mut batch));
                    bytes = 0;
                }
                batch.push(at..end);
                bytes += end - at;
                at = end;
            }
        }
        // Also when it is empty: the last one ends the file.
        batches.push(batch);
        let file = Arc::new(Large {
            inode,
            new: false,
            pieces_left: AtomicUsize::new(batches.len()),
        });
        let mut jobs = board.lock();
        for ranges in batches.into_iter().rev() {
            let file = file.clone();
            jobs.queue.push_front(Job::Ranges { file, ranges });
        }
        drop(jobs);
        board.changed.notify_all();
        Ok(())
    }

    pub(super) fn ranges(
        &self,
        board: &Board,
        lane: &mut Lane,
        file: &Large,
        ranges: &[Range<u64>],
    ) -> Result<(), CopyError> {
        let mut left: VecDeque<Range<u64>> = ranges.iter().cloned().collect();
        while !left.is_empty() {
            let some = first_bytes(&mut left, self.pace.piece(STEP_BYTES));
            let _turn = self.wait(board, some.iter().map(|range| range.end - range.start).sum());
            self.held_ranges(lane, file, &some)?;
        }
        if file.pieces_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.hold_and_send_attributes(lane, &[file.inode], true)?;
            self.progress.finished(1);
        }
        Ok(())
    }

    /// Ranges of a file that the target has, compared at once and held together.
    fn held_ranges(&self, lane: &mut Lane, file: &Large, ranges: &[Range<u64>]) -> Result<(), CopyError> {
        let inode = file.inode;
        let mut blocks = Vec::new();
        let mut differing = Vec::new();
        if self.hunch.compares() {
            for range in ranges {
                let segments = self.segments(inode, range.start, range.end - range.start)?;
                let mut all = segments.iter().all(|segment| segment.is_data);
                for segment in segments.iter().filter(|segment| segment.is_data) {
                    all &= self.sums(inode, segment, &mut blocks)?;
                }
                if !all {
                    differing.push(range.clone());
                }
            }
        } else {
            differing.extend_from_slice(ranges);
        }
        let compared = self.compare(lane, &blocks)?;
        let equal: HashSet<(u64, u64)> = compared
            .iter()
            .filter(|(_, equal)| *equal)
            .map(|(block, _)| (block.offset, u64::from(block.length)))
            .collect();
        self.hunch.compared(equal.len(), compared.len());
        for (block, _) in compared.iter().filter(|(_, equal)| !*equal) {
            let holds = |range: &&Range<u64>| range.contains(&block.offset);
            let range = ranges
                .iter()
                .find(holds)
                .cloned()
                .unwrap_or(block.offset..block.offset);
            if !differing.contains(&range) {
                differing.push(range);
            }
        }
        let unchanged: u64 = ranges
            .iter()
            .filter(|range| !differing.contains(range))
            .map(|range| range.end - range.start)
            .sum();
        self.progress.skipped(unchanged);
        if differing.is_empty() {
            return Ok(());
        }
        // To the end of the last block, which a hole takes as a whole.
        let whole_blocks = |range: &Range<u64>| range.start..range.end.next_multiple_of(BLOCK_BYTES);
        let scope = Scope {
            ranges: differing
                .iter()
                .map(|range| (inode, whole_blocks(range)))
                .collect(),
            ..Scope::default()
        };
        let (claim, gone) = self.session.claim(scope)?;
        let mut sent = Sent::default();
        let result = if gone.contains(&inode) {
            Ok(())
        } else {
            let node = Unfinished {
                inode,
                size: None,
                new: false,
            };
            let mut requests = Vec::new();
            let wanted = |at, length| !equal.contains(&(at, length));
            differing
                .iter()
                .map(whole_blocks)
                .try_for_each(|range| {
                    let length = range.end - range.start;
                    self.data_of(&node, range.start, length, wanted, &mut requests, &mut sent)
                })
                .and_then(|()| lane.write(&requests))
        };
        self.session.release(claim, Brought::default());
        result?;
        self.progress.sent(sent.data);
        self.progress.skipped(sent.skipped);
        Ok(())
    }

    /// One held range of a large file. False when the file is gone.
    fn step(&self, lane: &mut Lane, file: &Large, offset: u64, length: u64) -> Result<bool, CopyError> {
        let inode = file.inode;
        let segments = self.segments(inode, offset, length)?;
        let mut sent = Sent::default();
        let mut equal: HashMap<_, _> = HashMap::default();
        if file.new {
            // What is written here from now on is shipped.
            if segments.iter().all(|segment| !segment.is_data) {
                self.progress.skipped(length);
                return Ok(true);
            }
        } else if self.hunch.compares() {
            let mut blocks = Vec::new();
            let mut all = true;
            for segment in segments.iter().filter(|segment| segment.is_data) {
                all &= self.sums(inode, segment, &mut blocks)?;
            }
            let compared = self.compare(lane, &blocks)?;
            let same = compared.iter().filter(|(_, equal)| *equal).count();
            self.hunch.compared(same, compared.len());
            all &= same == compared.len();
            if all && segments.iter().all(|segment| segment.is_data) {
                self.progress.skipped(length);
                return Ok(true);
            }
            equal = compared
                .into_iter()
                .map(|(block, equal)| ((block.offset, u64::from(block.length)), equal))
                .collect();
        }
        // To the end of the last block, which a hole takes as a whole.
        let length = (offset + length).next_multiple_of(BLOCK_BYTES) - offset;
        let scope = Scope {
            ranges: vec![(inode, offset..offset + length)],
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
            let wanted = |at, length| !equal.get(&(at, length)).copied().unwrap_or(false);
            self.data_of(&node, offset, length, wanted, &mut requests, &mut sent)
                .and_then(|()| lane.write(&requests))
        };
        self.session.release(claim, Brought::default());
        result?;
        self.progress.sent(sent.data);
        self.progress.skipped(sent.skipped);
        Ok(!gone.contains(&inode))
    }

    pub(super) fn attributes(&self, lane: &mut Lane, inodes: &[InodeId]) -> Result<(), CopyError> {
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
        // What the map of an earlier process speaks of may have gone before it was read.
        let alive = |inode: &&InodeId| !matches!(self.status(**inode), Ok(None));
        let requests: Result<Vec<_>, _> = there
            .iter()
            .filter(alive)
            .map(|inode| self.attributes_of(*inode))
            .collect();
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

    pub(super) fn status(&self, inode: InodeId) -> Result<Option<Stat>, CopyError> {
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

/// Takes so many bytes off the front, at least one block; what is cut is cut between blocks.
fn first_bytes(ranges: &mut VecDeque<Range<u64>>, most: u64) -> Vec<Range<u64>> {
    let (mut taken, mut left) = (Vec::new(), most.max(BLOCK_BYTES));
    while let Some(range) = ranges.pop_front() {
        let end = range.end.min((range.start + left) / BLOCK_BYTES * BLOCK_BYTES);
        if range.end - range.start <= left {
            left -= range.end - range.start;
            taken.push(range);
        } else if end > range.start {
            ranges.push_front(end..range.end);
            taken.push(range.start..end);
            break;
        } else {
            ranges.push_front(range);
            break;
        }
    }
    taken
}

/// From `offset` to the end of its block, or to `end`.
fn block_length(offset: u64, end: u64) -> u64 {
    (BLOCK_BYTES - offset % BLOCK_BYTES).min(end.saturating_sub(offset))
}

/// From `offset`, whose block is wanted, to the end of the last one behind it that is as well.
fn wanted_length(offset: u64, end: u64, wanted: impl Fn(u64, u64) -> bool) -> u64 {
    let mut length = block_length(offset, end);
    while offset + length < end {
        let next = block_length(offset + length, end);
        if length + next > DATA_BYTES_MAX as u64 || !wanted(offset + length, next) {
            break;
        }
        length += next;
    }
    length
}

pub(super) fn kind_of(status: &Stat) -> FileType {
    FileType::from_raw_mode(status.st_mode)
}

pub(super) fn size_of(status: &Stat) -> u64 {
    status.st_size.cast_unsigned()
}

/// The inode or the name is not there any more.
pub(in crate::resync) fn is_gone(errno: Errno) -> bool {
    errno == Errno::from(System::STALE) || errno == Errno::from(System::NOENT)
}

pub(in crate::resync) fn read(attempt: &'static str, inode: InodeId) -> impl Fn(Errno) -> CopyError {
    move |errno| CopyError::Read {
        attempt,
        inode,
        errno,
    }
}
