//! Operations on a file's data: write, fallocate, copy_file_range.
//!
//! A change of data that is refused leaves the `mtime` as it was (the kernel sets it before it finds no room),
//! so that two nodes that both refuse stay equal; so does one that carries no time, since the kernel's write-back
//! cache keeps the time and sets it by itself, before or after. After a failure midway nothing is rolled back: the caller asks
//! [`Store::status`] and [`Store::read`] what is true now.

use super::node::mtime;
use super::open::{Access, Opened};
use super::refusal::Failure;
use super::store::Store;
use super::written::Writer;
use crate::operation::{Applied, FallocateMode, InodeId, Timestamp};
use rustix::fs::{FallocateFlags, FileType, Stat};
use rustix::io::Errno;

/// What a copy goes through when the kernel cannot copy by itself.
const COPY_BUFFER_BYTES: usize = 128 << 10;

/// The mode as `fallocate(2)` takes it.
pub(super) fn fallocate_flags(mode: FallocateMode) -> FallocateFlags {
    match mode {
        FallocateMode::Allocate => FallocateFlags::empty(),
        FallocateMode::AllocateKeepSize => FallocateFlags::KEEP_SIZE,
        FallocateMode::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateMode::ZeroRange => FallocateFlags::ZERO_RANGE,
        FallocateMode::ZeroRangeKeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    }
}

impl Store {
    pub(super) fn write(
        &self,
        inode: InodeId,
        offset: u64,
        data: &[u8],
        time: Option<Timestamp>,
        mode: Option<u32>,
    ) -> Result<Applied, Failure> {
        let change = Change::begin(self.writer(inode)?, time)?;
        let mut done = 0;
        while done < data.len() {
            match rustix::io::pwrite(change.node.fd(), &data[done..], offset + done as u64) {
                // A regular file that takes nothing and names no reason is broken.
                Ok(0) => return Err(change.end_badly(Errno::IO, done > 0)),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(change.end_badly(errno, done > 0)),
            }
        }
        change.end_well(mode)?;
        Ok(Applied {
            length: done as u64,
            handle: None,
        })
    }

    pub(super) fn fallocate(
        &self,
        inode: InodeId,
        mode: FallocateMode,
        offset: u64,
        length: u64,
        time: Option<Timestamp>,
        set_mode: Option<u32>,
    ) -> Result<(), Failure> {
        let flags = fallocate_flags(mode);
        let change = Change::begin(self.writer(inode)?, time)?;
        let result = loop {
            match rustix::fs::fallocate(change.node.fd(), flags, offset, length) {
                Err(Errno::INTR) => {}
                result => break result,
            }
        };
        match result {
            Ok(()) => change.end_well(set_mode),
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => {
                // ext4 keeps what it has allocated by then, and the size that belongs to it. Reserved blocks
                // read as the hole they were, so giving back the size gives back everything.
                let allocates = matches!(mode, FallocateMode::Allocate | FallocateMode::AllocateKeepSize);
                let size = change.before.st_size as u64;
                let restored = allocates && rustix::fs::ftruncate(change.node.fd(), size).is_ok();
                Err(change.end_badly(errno, !restored))
            }
            Err(errno) => Err(change.end_badly(errno, false)),
        }
    }

    pub(super) fn copy_range(
        &self,
        (source, source_offset): (InodeId, u64),
        (target, target_offset): (InodeId, u64),
        length: u64,
        time: Option<Timestamp>,
        set_mode: Option<u32>,
    ) -> Result<Applied, Failure> {
        let from = self.open(source, Access::Read)?;
        let status = from.status().map_err(Failure::unchanged)?;
        if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
            return Err(Failure::Refused(Errno::ISDIR.into()));
        }
        if ends_before(&status, source_offset, length) {
            return Err(Failure::Refused(SOURCE_TOO_SHORT.into()));
        }
        // Last, as in generic_copy_file_checks(), fs/read_write.c.
        let overlap = source_offset.abs_diff(target_offset) < length;
        if source == target && overlap {
            return Err(Failure::Refused(Errno::INVAL.into()));
        }
        let change = Change::begin(self.writer(target)?, time)?;
        let mut copier = Copier::Kernel;
        let mut done = 0;
        while done < length {
            let (read_at, write_at) = (source_offset + done, target_offset + done);
            match copier.step(&from, read_at, &change.node, write_at, length - done) {
                // The source ends before it should: it is not what the primary copied from.
                Ok(0) => return Err(change.end_badly(Errno::IO, true)),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(change.end_badly(errno, done > 0)),
            }
        }
        change.end_well(set_mode)?;
        Ok(Applied {
            length: done,
            handle: None,
        })
    }
}

/// The answer to a copy from behind the end of its source, which an earlier operation has cut meanwhile: on it
/// the kernel copies by reading and writing.
pub(super) const SOURCE_TOO_SHORT: Errno = Errno::XDEV;

/// Whether a copy of `length` bytes from `offset` does not lie within its source.
pub(super) fn ends_before(source: &Stat, offset: u64, length: u64) -> bool {
    offset.saturating_add(length) > source.st_size.cast_unsigned()
}

/// A change of one file's data in progress.
struct Change<'a> {
    node: Opened,
    before: Stat,
    time: Option<Timestamp>,
    /// Until this is dropped, no sync counts as covering the change.
    _writer: Writer<'a>,
}

impl<'a> Change<'a> {
    fn begin(writer: Writer<'a>, time: Option<Timestamp>) -> Result<Self, Failure> {
        let node = Opened {
            descriptor: writer.descriptor.clone(),
            access: Access::Write,
        };
        let before = node.status().map_err(Failure::unchanged)?;
        Ok(Change {
            node,
            before,
            time,
            _writer: writer,
        })
    }

    fn end_well(self, mode: Option<u32>) -> Result<(), Failure> {
        if let Some(mode) = mode {
            self.node.set_mode(mode).map_err(Failure::midway)?;
        }
        let time = self.time.unwrap_or_else(|| mtime(&self.before));
        self.node.set_times(None, Some(time)).map_err(Failure::midway)
    }

    fn end_badly(self, errno: Errno, changed: bool) -> Failure {
        if !changed && let Err(again) = self.node.set_times(None, Some(mtime(&self.before))) {
            tracing::warn!(%errno, %again, "the mtime of a file that refused a change could not be restored");
            return Failure::midway(errno);
        }
        Failure::of(errno, changed)
    }
}

/// How the bytes of a copy move. Falls back once and stays there.
enum Copier {
    Kernel,
    Buffer(Vec<u8>),
}

impl Copier {
    fn step(
        &mut self,
        from: &Opened,
        mut read_at: u64,
        to: &Opened,
        mut write_at: u64,
        length: u64,
    ) -> Result<u64, Errno> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if let Copier::Kernel = self {
            let copied = rustix::fs::copy_file_range(
                from.fd(),
                Some(&mut read_at),
                to.fd(),
                Some(&mut write_at),
                length,
            );
            match copied {
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    *self = Copier::Buffer(vec![0; COPY_BUFFER_BYTES]);
                }
                result => return result.map(|count| count as u64),
            }
        }
        let Copier::Buffer(buffer) = self else {
            return Err(Errno::IO);
        };
        let most = buffer.len().min(length);
        let count = rustix::io::pread(from.fd(), &mut buffer[..most], read_at)?;
        let mut written = 0;
        while written < count {
            match rustix::io::pwrite(to.fd(), &buffer[written..count], write_at + written as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(more) => written += more,
                Err(Errno::INTR) => {}
                // What was written counts; the next step meets the error again.
                Err(_) if written > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(written as u64)
    }
}
