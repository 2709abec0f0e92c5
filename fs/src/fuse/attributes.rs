//! Attributes: the backing status as the kernel wants it, and what `SETATTR` and writes make of the mode.

use super::credentials::Caller;
use crate::backing::Stat;
use crate::clock;
use crate::config::SyncMode;
use crate::operation::{Attributes, Timestamp};
use crate::wire::message::Room;
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use rustix::fs::StatVfs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `S_ISUID` (stat.h).
pub const SET_UID: u32 = 0o4000;
/// `S_ISGID`.
pub const SET_GID: u32 = 0o2000;
/// `S_IXGRP`.
const GROUP_EXECUTE: u32 = 0o0010;
/// All that `chmod(2)` can set.
pub const MODE_BITS: u32 = 0o7777;

/// The status as the kernel wants it; `node` is what it calls the inode.
pub fn of(status: &Stat, node: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(node),
        size: status.st_size.cast_unsigned(),
        blocks: status.st_blocks.cast_unsigned(),
        atime: system_time(status.st_atime, status.st_atime_nsec),
        mtime: system_time(status.st_mtime, status.st_mtime_nsec),
        ctime: system_time(status.st_ctime, status.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind(status.st_mode),
        perm: (status.st_mode & MODE_BITS) as u16,
        nlink: u32::try_from(status.st_nlink).unwrap_or(u32::MAX),
        uid: status.st_uid,
        gid: status.st_gid,
        // The kernel's 32-bit encoding is the lower half of the C library's.
        rdev: status.st_rdev as u32,
        blksize: u32::try_from(status.st_blksize).unwrap_or(0),
        flags: 0,
    }
}

/// An answer that tells the kernel to remember that a name does not exist: node number 0.
pub fn of_nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// The file type in `st_mode`.
pub fn kind(mode: u32) -> FileType {
    use rustix::fs::FileType as Raw;
    match Raw::from_raw_mode(mode) {
        Raw::Directory => FileType::Directory,
        Raw::Symlink => FileType::Symlink,
        Raw::Fifo => FileType::NamedPipe,
        Raw::Socket => FileType::Socket,
        Raw::CharacterDevice => FileType::CharDevice,
        Raw::BlockDevice => FileType::BlockDevice,
        Raw::RegularFile | Raw::Unknown => FileType::RegularFile,
    }
}

/// True for a directory's `st_mode`.
pub fn is_directory(mode: u32) -> bool {
    kind(mode) == FileType::Directory
}

/// What can still be written, in the units of `statfs(2)`.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    /// Blocks, those reserved for root included.
    pub free_blocks: u64,
    /// Blocks for everybody.
    pub available_blocks: u64,
    /// Inodes.
    pub free_inodes: u64,
}

/// The smaller of what is left here and at the secondary, whose blocks may be of another size.
pub fn left_on_both(here: &StatVfs, there: Option<Room>) -> Left {
    let own = Left {
        free_blocks: here.f_bfree,
        available_blocks: here.f_bavail,
        free_inodes: here.f_ffree,
    };
    let Some(there) = there else { return own };
    let blocks = |bytes: u64| bytes / here.f_frsize.max(1);
    Left {
        free_blocks: own.free_blocks.min(blocks(there.free_bytes)),
        available_blocks: own.available_blocks.min(blocks(there.available_bytes)),
        // File systems without a fixed number of inodes (Btrfs) say 0 of 0.
        free_inodes: if there.free_inodes == 0 {
            own.free_inodes
        } else {
            own.free_inodes.min(there.free_inodes)
        },
    }
}

fn system_time(seconds: i64, nanoseconds: impl TryInto<u32>) -> SystemTime {
    let nanoseconds = Duration::from_nanos(u64::from(nanoseconds.try_into().unwrap_or(0)));
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    // No file system stores times that `SystemTime` cannot.
    time.and_then(|time| time.checked_add(nanoseconds))
        .unwrap_or(UNIX_EPOCH)
}

/// A time of a `SETATTR`. For times before 1970 the FUSE library subtracts the nanoseconds where the kernel
/// means to add them; taking its result apart in the same way gives what the kernel sent.
fn timestamp(time: TimeOrNow) -> Timestamp {
    let time = match time {
        TimeOrNow::Now => return clock::stamp(),
        TimeOrNow::SpecificTime(time) => time,
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: since.subsec_nanos(),
        },
        Err(before) => Timestamp {
            seconds: 0_i64.saturating_sub_unsigned(before.duration().as_secs()),
            nanoseconds: before.duration().subsec_nanos(),
        },
    }
}

/// The mode without the set-id bits that a change by `caller` costs a file, if it has such bits
/// (`setattr_should_drop_suidgid()`, fs/attr.c); for a caller without `CAP_FSETID` or a change of owner.
pub fn without_set_id(status: &Stat, caller: &Caller) -> Option<u32> {
    let mode = status.st_mode & MODE_BITS;
    let mut kept = mode & !SET_UID;
    if mode & SET_GID != 0 && (mode & GROUP_EXECUTE != 0 || !caller.in_group_or_capable(status.st_gid)) {
        kept &= !SET_GID;
    }
    (kept != mode).then_some(kept)
}

/// What a `SETATTR` request carries.
pub struct Wanted {
    /// `chmod`.
    pub mode: Option<u32>,
    /// `chown`.
    pub uid: Option<u32>,
    /// `chown`.
    pub gid: Option<u32>,
    /// `truncate`.
    pub size: Option<u64>,
    /// `utimensat`.
    pub atime: Option<TimeOrNow>,
    /// `utimensat`, or the kernel's own time with a write-back cache.
    pub mtime: Option<TimeOrNow>,
    /// `ftruncate`, rather than `truncate`.
    pub by_descriptor: bool,
}

impl Wanted {
    /// What `chown(2)` with neither owner nor group asks for.
    fn is_nothing(&self) -> bool {
        let owner = self.uid.or(self.gid).is_some();
        let time = self.atime.or(self.mtime).is_some();
        !owner && !time && self.mode.is_none() && self.size.is_none()
    }

    /// Such a chown of a file with set-id bits counts as a change of its mode, which is its owner's to make
    /// (`notify_change()`, fs/attr.c), and the kernel leaves that check to us. A write that costs a file these
    /// bits sends the same request, so this is about files that nobody has open for writing.
    pub fn is_refused(&self, status: &Stat, caller: &Caller) -> bool {
        self.is_nothing()
            && !is_directory(status.st_mode)
            && without_set_id(status, caller).is_some()
            && caller.uid != status.st_uid
            && caller.uid != 0
    }

    /// The final values, given what the inode is now.
    pub fn resolve(self, status: &Stat, caller: &Caller, sync: SyncMode) -> Attributes {
        let directory = is_directory(status.st_mode);
        let nothing = self.is_nothing();
        // The kernel asks for nothing at all when `chown(2)` is called with neither owner nor group; that
        // clears set-id bits as every other chown does, for everybody.
        let chown = self.uid.is_some() || self.gid.is_some() || nothing;
        let truncate = self.size.is_some();
        let mut mode = self.mode.map(|mode| mode & MODE_BITS);
        if mode.is_none() && !directory && (chown || (truncate && !caller.keeps_set_id())) {
            mode = without_set_id(status, caller);
        }
        let mut mtime = self.mtime.map(timestamp);
        if let Some(size) = self.size
            && mtime.is_none()
            && sync == SyncMode::Write
            // `truncate(2)` to the present size leaves the time, `ftruncate(2)` and `O_TRUNC` do not (do_truncate,
            // fs/open.c). For an empty file the request does not tell the first from the last, which is common.
            && (self.by_descriptor || size == 0 || size != status.st_size.cast_unsigned())
        {
            mtime = Some(clock::stamp());
        }
        Attributes {
            mode,
            // Still a change of ctime.
            uid: self.uid.or(nothing.then_some(status.st_uid)),
            gid: self.gid,
            size: self.size,
            atime: self.atime.map(timestamp),
            mtime,
            drop_capability: !directory && (chown || truncate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_the_smaller_of_both_nodes_in_this_nodes_blocks() {
        let mut here = rustix::fs::statvfs("/").unwrap();
        (here.f_frsize, here.f_bfree, here.f_bavail, here.f_ffree) = (4096, 100, 90, 80);
        let there = Room {
            free_bytes: 50 * 4096,
            available_bytes: 1 << 40,
            free_inodes: 7,
        };
        let left = |free_blocks, available_blocks, free_inodes| Left {
            free_blocks,
            available_blocks,
            free_inodes,
        };
        assert_eq!(left_on_both(&here, None), left(100, 90, 80));
        assert_eq!(left_on_both(&here, Some(there)), left(50, 90, 7));
        let without_inodes = Room {
            free_inodes: 0,
            ..there
        };
        assert_eq!(left_on_both(&here, Some(without_inodes)), left(50, 90, 80));
    }

    #[test]
    fn a_time_before_1970_comes_back_as_the_kernel_sent_it() {
        // What fuser makes of seconds -2, nanoseconds 800,000,000.
        let fuser = UNIX_EPOCH - Duration::new(2, 800_000_000);
        let expected = Timestamp {
            seconds: -2,
            nanoseconds: 800_000_000,
        };
        assert_eq!(timestamp(TimeOrNow::SpecificTime(fuser)), expected);
    }

    #[test]
    fn a_status_before_1970_is_shown_as_it_is() {
        let shown = system_time(-2, 800_000_000_i64);
        assert_eq!(
            UNIX_EPOCH.duration_since(shown).ok(),
            Some(Duration::new(1, 200_000_000))
        );
    }
}
