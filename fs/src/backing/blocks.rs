//! A file's data by blocks, as a copy compares, reads and writes it; its holes stay holes.

use super::error::CopyFailure;
use super::open::{Access, Opened};
use super::store::Store;
use crate::operation::{Errno as OurErrno, InodeId};
use crate::wire::bulk::{BLOCK_BYTES, Block, Sum};
use rustix::fd::AsFd;
use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::{Errno, Result};
use std::collections::VecDeque;
use std::num::NonZeroU64;

/// The kernel caches, and drops, up to so much as one (a huge page).
const CACHED_TOGETHER_BYTES: u64 = 2 << 20;

/// Part of a file that is either data or hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, at least 1.
    pub length: u64,
    /// Data, as opposed to a hole.
    pub is_data: bool,
}

/// What the kernel caches as one.
const PAGE_BYTES: usize = 4096;

impl Segment {
    /// The first byte behind it.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// So much of a file is handed to the disk at a time while it is being copied.
const WRITTEN_TOGETHER: u64 = 1 << 20;

/// Has the kernel begin to write what ends here: else all of a copy would lie in its cache until the sync at the end, which
/// would then take as long as everything before it. `POSIX_FADV_DONTNEED` begins to write dirty pages, and drops none that
/// are being written (mm/fadvise.c).
fn begin_writing(file: impl AsFd, end: u64) {
    if end > 0 && end.is_multiple_of(WRITTEN_TOGETHER) {
        let begun = rustix::fs::fadvise(
            file,
            end - WRITTEN_TOGETHER,
            NonZeroU64::new(WRITTEN_TOGETHER),
            Advice::DontNeed,
        );
        if let Err(errno) = begun {
            tracing::debug!(%errno, "the kernel takes no advice on when to write");
        }
    }
}

impl Store {
    /// Which of these blocks are here: the same bytes, all of them, and no hole among them. Blocks of one file
    /// that follow one another are best given one after the other.
    ///
    /// # Errors
    /// What the kernel says, of which file.
    pub fn compare(&self, blocks: &[Block]) -> std::result::Result<Vec<bool>, CopyFailure> {
        let mut equal = Vec::with_capacity(blocks.len());
        let mut buffer = vec![0; BLOCK_BYTES as usize];
        for run in blocks.chunk_by(follows) {
            let Some(first) = run.first() else { continue };
            let compared = match self.compare_run(first.inode, run, &mut buffer) {
                // Removed since: nothing of it is here.
                Err(errno) if errno == Errno::STALE.into() => Ok(vec![false; run.len()]),
                compared => compared,
            };
            equal.extend(compared.map_err(|errno| {
                let attempt = format!("compare {} from byte {}", first.inode, first.offset);
                CopyFailure::new(attempt, errno)
            })?);
        }
        Ok(equal)
    }

    fn compare_run(
        &self,
        inode: InodeId,
        run: &[Block],
        buffer: &mut [u8],
    ) -> std::result::Result<Vec<bool>, OurErrno> {
        let file = self.open(inode, Access::Read)?;
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(Vec::new());
        };
        let (start, length) = (first.offset, end(last) - first.offset);
        let mut data = data_within(&file, start, length)?;
        let mut settled = false;
        let mut equal = Vec::with_capacity(run.len());
        for block in run {
            let mut is_equal = data.covers(block) && has(&file, block, buffer)?;
            if is_equal && !settled && has_zero_page(&buffer[..block.length as usize]) {
                // Perhaps it was never written, see `Store::data_segments`.
                self.settle_file(&file, start, length)?;
                data = data_within(&file, start, length)?;
                settled = true;
                is_equal = data.covers(block);
            }
            equal.push(is_equal);
        }
        Ok(equal)
    }

    /// Writes all of `data` at `offset`. The `mtime` becomes the present.
    ///
    /// # Errors
    /// What the kernel says; some of it may be written then.
    pub fn write_block(&self, inode: InodeId, offset: u64, data: &[u8]) -> std::result::Result<(), OurErrno> {
        let writer = self.writer(inode)?;
        let mut done = 0;
        while done < data.len() {
            match rustix::io::pwrite(&writer.descriptor, &data[done..], offset + done as u64) {
                // A regular file that takes nothing and names no reason is broken.
                Ok(0) => return Err(Errno::IO.into()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        begin_writing(&writer.descriptor, offset.saturating_add(data.len() as u64));
        Ok(())
    }

    /// Makes a range a hole as far as there is data in it; the size stays. A hole consists of whole blocks of the
    /// file system: the parts of blocks at both ends become zeroes. So a hole that ends with the file on the
    /// source is to be given to the end of that block.
    pub fn make_hole(&self, inode: InodeId, offset: u64, length: u64) -> std::result::Result<(), OurErrno> {
        let file = self.open(inode, Access::Read)?;
        let status = file.status()?;
        // Further on nothing is, and the kernel refuses what reaches beyond the longest file that it can have.
        let last = status
            .st_size
            .cast_unsigned()
            .next_multiple_of(status.st_blksize.max(1).cast_unsigned());
        let end = offset.saturating_add(length).min(last);
        let Some(start) = next_data(&file, offset)?.filter(|start| *start < end) else {
            return Ok(());
        };
        let writer = self.writer(inode)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match rustix::fs::fallocate(&writer.descriptor, flags, start, end - start) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// The data and the holes of a range as far as the file reaches, in order and without gaps.
    ///
    /// What was allocated and never written is a hole, but data as long as the kernel has it in its cache. Where
    /// data turns out to be nothing but zeroes, [`Store::settle`] and a second look tell.
    pub fn data_segments(
        &self,
        inode: InodeId,
        offset: u64,
        length: u64,
    ) -> std::result::Result<Vec<Segment>, OurErrno> {
        let file = self.open(inode, Access::Read)?;
        Ok(segments(&file, offset, length)?)
    }

    /// Makes [`Store::data_segments`] tell the truth about what was allocated and never written in this range:
    /// writes the file back, and takes the range out of the kernel's cache. Costs what `fdatasync` costs.
    pub fn settle(&self, inode: InodeId, offset: u64, length: u64) -> std::result::Result<(), OurErrno> {
        let file = self.open(inode, Access::Read)?;
        Ok(self.settle_file(&file, offset, length)?)
    }

    /// Written back first: what is cached together with something dirty does not leave the cache. Only what lies
    /// wholly within the range does, so that is widened.
    fn settle_file(&self, file: &Opened, offset: u64, length: u64) -> Result<()> {
        self.durable.write_back(file)?;
        let start = offset - offset % CACHED_TOGETHER_BYTES;
        let end = offset
            .saturating_add(length)
            .checked_next_multiple_of(CACHED_TOGETHER_BYTES);
        // None: to the end of the file.
        let length = end.and_then(|end| NonZeroU64::new(end - start));
        rustix::fs::fadvise(file.fd(), start, length, Advice::DontNeed)
    }
}

/// The runs of data of a range, as blocks are asked for in ascending order.
struct DataWithin {
    /// The first is the one that the last block asked for was in, or the next.
    ahead: VecDeque<Segment>,
}

impl DataWithin {
    /// No part of the block is hole.
    fn covers(&mut self, block: &Block) -> bool {
        while self
            .ahead
            .front()
            .is_some_and(|segment| segment.end() <= block.offset)
        {
            self.ahead.pop_front();
        }
        self.ahead
            .front()
            .is_some_and(|segment| segment.offset <= block.offset && end(block) <= segment.end())
    }
}

fn data_within(file: &Opened, offset: u64, length: u64) -> Result<DataWithin> {
    let segments = segments(file, offset, length)?;
    Ok(DataWithin {
        ahead: segments.into_iter().filter(|segment| segment.is_data).collect(),
    })
}

fn follows(one: &Block, next: &Block) -> bool {
    one.inode == next.inode && end(one) == next.offset
}

fn end(block: &Block) -> u64 {
    block.offset + u64::from(block.length)
}

/// True when a page of these bytes, or what is left of one at their end, is nothing but zeroes: perhaps it was
/// allocated and never written, see [`Store::data_segments`].
pub fn has_zero_page(bytes: &[u8]) -> bool {
    bytes.chunks(PAGE_BYTES).any(is_zero)
}

/// True when these bytes are nothing but zeroes.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Whether the file has this block, which is data here.
fn has(file: &Opened, block: &Block, buffer: &mut [u8]) -> Result<bool> {
    let Some(buffer) = buffer.get_mut(..block.length as usize) else {
        return Err(Errno::INVAL);
    };
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file.fd(), &mut buffer[filled..], block.offset + filled as u64) {
            Ok(0) => return Ok(false),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(Sum::of(buffer) == block.sum)
}

/// A hole begins at the end of the file at the latest: what the kernel calls one there is none here.
pub(super) fn segments(file: &Opened, offset: u64, length: u64) -> Result<Vec<Segment>> {
    let size = file.status()?.st_size.cast_unsigned();
    let end = offset.saturating_add(length).min(size);
    let mut segments = Vec::new();
    let mut push = |from: u64, to: u64, is_data| {
        if from < to {
            segments.push(Segment {
                offset: from,
                length: to - from,
                is_data,
            });
        }
    };
    let mut here = offset;
    while here < end {
        let data = next_data(file, here)?.unwrap_or(end).min(end);
        push(here, data, false);
        if data == end {
            break;
        }
        let hole = match rustix::fs::seek(file.fd(), SeekFrom::Hole(data)) {
            Ok(hole) => hole.min(end),
            // Cut short meanwhile.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        push(data, hole, true);
        here = hole;
    }
    Ok(segments)
}

/// `None` when nothing but a hole follows, or the end.
fn next_data(file: &Opened, offset: u64) -> Result<Option<u64>> {
    match rustix::fs::seek(file.fd(), SeekFrom::Data(offset)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}
