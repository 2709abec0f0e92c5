//! What is shipped and applied: the vocabulary of everything below.
//!
//! An [`Operation`] is complete: the primary works out owner, mode, ACL and times before it numbers
//! one, so that applying it derives nothing and gives the same result on both nodes. It names inodes
//! by [`InodeId`], never by path. The same `backing::Store::apply` runs it on both nodes.
//!
//! No I/O here, no knowledge of FUSE, QUIC or sessions.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// An inode as both nodes call it. Given out by the primary, never used again within a session.
///
/// The roots of the module's directories are `1..=directories`, in the order of the configuration; 0 is no
/// inode. It is not the inode number that `stat` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InodeId(pub u64);

impl InodeId {
    /// The root of directory `index` (counted from 0 in the order of the configuration).
    pub fn root(index: usize) -> Self {
        InodeId(index as u64 + 1)
    }
}

impl fmt::Display for InodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{}", self.0)
    }
}

/// The place of an operation in its session's total order, from 1. 0 is "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Number(pub u64);

impl Number {
    /// The number after this one.
    pub fn next(self) -> Self {
        Number(self.0 + 1)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Longest directory entry name in bytes (`NAME_MAX`, limits.h).
pub const NAME_BYTES_MAX: usize = 255;

/// One directory entry's name: 1 to 255 bytes, none of them `/` or NUL, not `.` and not `..`.
///
/// Decoding checks this, so a name from the peer cannot leave its directory.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Name(Bytes);

/// Why some bytes are not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No byte at all.
    #[error("a directory entry's name is empty")]
    Empty,
    /// More than [`NAME_BYTES_MAX`] bytes.
    #[error("a directory entry's name has {0} bytes, more than 255")]
    TooLong(usize),
    /// `/` or NUL inside.
    #[error("a directory entry's name contains a slash or a NUL")]
    Separator,
    /// `.` or `..`.
    #[error("'.' and '..' are not names of entries")]
    Dots,
}

impl Name {
    /// Checks and copies `bytes`.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        Self::check(bytes)?;
        Ok(Name(Bytes::copy_from_slice(bytes)))
    }

    /// The bytes, without a NUL at the end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn check(bytes: &[u8]) -> Result<(), NameError> {
        match bytes {
            [] => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            _ if bytes.len() > NAME_BYTES_MAX => Err(NameError::TooLong(bytes.len())),
            _ if bytes.iter().any(|b| *b == b'/' || *b == 0) => Err(NameError::Separator),
            _ => Ok(()),
        }
    }
}

impl TryFrom<Bytes> for Name {
    type Error = NameError;
    fn try_from(bytes: Bytes) -> Result<Self, NameError> {
        Self::check(&bytes)?;
        Ok(Name(bytes))
    }
}

impl From<Name> for Bytes {
    fn from(name: Name) -> Bytes {
        name.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// An extended attribute's full name with its namespace: 1 to 255 bytes without NUL (`XATTR_NAME_MAX`). Unlike a
/// [`Name`] it may contain slashes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct XattrName(Bytes);

/// Some bytes are not an [`XattrName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an extended attribute's name is 1 to 255 bytes without NUL; this one has {bytes} bytes")]
pub struct XattrNameError {
    /// How long it is.
    pub bytes: usize,
}

impl XattrName {
    /// Checks and copies `bytes`.
    pub fn new(bytes: &[u8]) -> Result<Self, XattrNameError> {
        Self::try_from(Bytes::copy_from_slice(bytes))
    }

    /// The bytes, without a NUL at the end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Bytes> for XattrName {
    type Error = XattrNameError;
    fn try_from(bytes: Bytes) -> Result<Self, XattrNameError> {
        if bytes.is_empty() || bytes.len() > NAME_BYTES_MAX || bytes.contains(&0) {
            return Err(XattrNameError { bytes: bytes.len() });
        }
        Ok(XattrName(bytes))
    }
}

impl From<XattrName> for Bytes {
    fn from(name: XattrName) -> Bytes {
        name.0
    }
}

impl fmt::Debug for XattrName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// A backing file handle as `name_to_handle_at(2)` gives it: it finds the inode again on its own node,
/// whatever its names are, and fails with `ESTALE` once the inode is gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileHandle {
    /// `handle_type` of `struct file_handle`.
    pub kind: i32,
    /// `f_handle`, at most 128 bytes (`MAX_HANDLE_SZ`).
    pub bytes: Arc<[u8]>,
}

/// A point in time since 1970 as the file system stores it; `nanoseconds` is below 1,000,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// What a [`Create`] makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// A regular file, empty.
    File,
    /// A directory, empty.
    Directory,
    /// A symbolic link to these bytes (1 to 4095, no NUL).
    Symlink(Bytes),
    /// A FIFO.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device, with `st_rdev` as `makedev(3)` builds it.
    CharacterDevice(u64),
    /// A block device, with `st_rdev`.
    BlockDevice(u64),
}

/// Makes an inode and its first name. Refused with `EEXIST` when the name is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// Directory that gets the name.
    pub parent: InodeId,
    /// The new name.
    pub name: Name,
    /// The number that the new inode is bound to.
    pub inode: InodeId,
    /// What it is.
    pub kind: NodeKind,
    /// Final permission bits, set-id and sticky bits included (`st_mode & 07777`).
    pub mode: u32,
    /// Final owner.
    pub uid: u32,
    /// Final group.
    pub gid: u32,
    /// Final `system.posix_acl_access` and `system.posix_acl_default` values that the parent's default ACL
    /// leads to; empty when the parent has none.
    pub acls: Vec<(XattrName, Bytes)>,
    /// `mtime` of the new inode and of `parent`.
    pub time: Timestamp,
}

/// An inode that loses a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Victim {
    /// Which.
    pub inode: InodeId,
    /// True when it is its last name: once that is applied the inode is local to the primary (open files may
    /// still use it) and nothing about it is shipped any more.
    pub last: bool,
}

/// How a [`Rename`] treats the target name (`renameat2(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces what is there.
    Replace,
    /// `RENAME_NOREPLACE`: refused with `EEXIST`.
    NoReplace,
    /// `RENAME_EXCHANGE`: both must exist and change places.
    Exchange,
}

/// Moves a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    /// Directory that loses the name.
    pub source_parent: InodeId,
    /// The old name.
    pub source_name: Name,
    /// Directory that gets the name.
    pub target_parent: InodeId,
    /// The new name.
    pub target_name: Name,
    /// Replace, refuse or exchange.
    pub mode: RenameMode,
    /// The inode that moves.
    pub moved: InodeId,
    /// What has the target name before, if the primary sees an inode there.
    pub replaced: Option<Victim>,
    /// `mtime` of both directories.
    pub time: Timestamp,
}

/// Takes a name away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlink {
    /// Directory that loses the name.
    pub parent: InodeId,
    /// The name.
    pub name: Name,
    /// True for `rmdir(2)`, false for `unlink(2)`.
    pub directory: bool,
    /// What has the name.
    pub victim: Victim,
    /// `mtime` of `parent`.
    pub time: Timestamp,
}

/// The modes of `fallocate(2)` that FUSE carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FallocateMode {
    /// Mode 0: reserve, and grow the file.
    Allocate,
    /// `KEEP_SIZE`.
    AllocateKeepSize,
    /// `PUNCH_HOLE | KEEP_SIZE`.
    PunchHole,
    /// `ZERO_RANGE`.
    ZeroRange,
    /// `ZERO_RANGE | KEEP_SIZE`.
    ZeroRangeKeepSize,
}

/// New attributes; what is `None` stays. The primary has resolved "now" and every derived bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// `st_mode & 07777`.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes; a growing file grows by a hole.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<Timestamp>,
    /// Modification time; set last, after what the size change does to it.
    pub mtime: Option<Timestamp>,
    /// Remove `security.capability` (a truncate or a change of owner drops it).
    pub drop_capability: bool,
}

/// What `setxattr(2)` asks when the attribute exists or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// `XATTR_CREATE`: refused with `EEXIST`.
    Create,
    /// `XATTR_REPLACE`: refused with `ENODATA`.
    Replace,
}

/// One change to the module's directories, or an order about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// From now on `inode` is what `name` in `parent` is at this point of the order. The primary sends its own
    /// backing handle along; the secondary answers with its own.
    Bind {
        /// The number to bind.
        inode: InodeId,
        /// Directory, bound already.
        parent: InodeId,
        /// Its name there, as sent.
        name: Name,
        /// The primary's handle.
        handle: FileHandle,
    },
    /// Makes an inode.
    Create(Create),
    /// Gives `inode` one more name.
    Link {
        /// The inode.
        inode: InodeId,
        /// Directory that gets the name.
        parent: InodeId,
        /// The new name.
        name: Name,
        /// `mtime` of `parent`.
        time: Timestamp,
    },
    /// Takes a name away.
    Unlink(Unlink),
    /// Moves a name.
    Rename(Rename),
    /// Writes `data` at `offset`.
    Write {
        /// The file.
        inode: InodeId,
        /// Where, in bytes.
        offset: u64,
        /// What; 1 byte to [`WRITE_BYTES_MAX`].
        data: Bytes,
        /// `mtime`; none for the kernel's write-back, which sets the times by itself.
        time: Option<Timestamp>,
        /// The resulting mode when the write clears set-id bits.
        mode: Option<u32>,
    },
    /// Changes size, mode, owner or times.
    SetAttributes {
        /// The inode.
        inode: InodeId,
        /// The new values.
        attributes: Attributes,
    },
    /// `fallocate(2)`.
    Fallocate {
        /// The file.
        inode: InodeId,
        /// Which change.
        mode: FallocateMode,
        /// From, in bytes.
        offset: u64,
        /// How many bytes, at least 1.
        length: u64,
        /// `mtime`; none in write-back mode.
        time: Option<Timestamp>,
        /// The resulting mode when set-id bits are cleared.
        set_mode: Option<u32>,
    },
    /// `copy_file_range(2)`, at most [`COPY_BYTES_MAX`].
    CopyRange {
        /// File read.
        source: InodeId,
        /// From, in bytes.
        source_offset: u64,
        /// File written.
        target: InodeId,
        /// To, in bytes.
        target_offset: u64,
        /// How many bytes; the primary has cut it at the source's end, so both copy exactly this many.
        length: u64,
        /// `mtime` of `target`.
        time: Option<Timestamp>,
        /// The target's resulting mode when set-id bits are cleared.
        set_mode: Option<u32>,
    },
    /// Sets an extended attribute, POSIX ACLs included.
    SetXattr {
        /// The inode.
        inode: InodeId,
        /// Full name with its namespace.
        name: XattrName,
        /// Value, at most 64 KiB.
        value: Bytes,
        /// Create, replace or either.
        mode: XattrMode,
        /// The resulting mode when an ACL change clears setgid.
        set_mode: Option<u32>,
    },
    /// Removes an extended attribute.
    RemoveXattr {
        /// The inode.
        inode: InodeId,
        /// Full name.
        name: XattrName,
    },
    /// `fsync(2)` or `fdatasync(2)` of a file or directory, after all name operations and all operations of
    /// this inode that are numbered lower. Does not hold back what is numbered higher.
    Sync {
        /// File or directory.
        inode: InodeId,
        /// True for `fdatasync`.
        data_only: bool,
    },
    /// `syncfs` of every backing file system, after everything that is numbered lower.
    Checkpoint,
}

/// Most bytes in one [`Operation::Write`] (the kernel's `max_write` for FUSE with 256 pages).
pub const WRITE_BYTES_MAX: usize = 1 << 20;
/// A write of more takes a file system longer than a hop to another thread.
const SHORT_WRITE_BYTES_MAX: usize = 128 << 10;
/// Most bytes in one [`Operation::CopyRange`], so that none takes long.
pub const COPY_BYTES_MAX: u64 = 8 << 20;
/// Longest extended attribute value (`XATTR_SIZE_MAX`, linux/limits.h).
pub const XATTR_BYTES_MAX: usize = 64 << 10;

/// An error number of Linux, as `errno(3)` names them. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Errno(pub i32);

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Errno(errno.raw_os_error())
    }
}

/// What applying an operation gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Bytes written or copied; 0 for other operations.
    pub length: u64,
    /// The backing handle of the inode that a `Bind` or `Create` made known.
    pub handle: Option<FileHandle>,
}

/// The outcome of applying one operation on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Applied, exactly as far as asked.
    Applied(Applied),
    /// The file system refused it and nothing changed.
    Refused(Errno),
    /// The operation names an inode that is not bound here, or a `Bind` named an entry that is not there.
    NotBound(InodeId),
    /// It failed midway, or in a way that says the disk is broken: what is there now is not known.
    Failed(Errno),
}

/// Up to four inodes in ascending order, each once. A slice in all but name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    inodes: [InodeId; 4],
    count: u8,
}

impl Touched {
    /// These inodes, in order and without repetition.
    pub fn of<const COUNT: usize>(inodes: [InodeId; COUNT]) -> Self {
        const { assert!(COUNT <= 4, "no operation touches more than four inodes") };
        let mut touched = Touched::default();
        for inode in inodes {
            touched.add(inode);
        }
        touched
    }

    /// Adds one. No operation has a fifth; it would be left out.
    pub fn add(&mut self, inode: InodeId) {
        let count = usize::from(self.count);
        let Err(at) = self.binary_search(&inode) else {
            return;
        };
        if count == self.inodes.len() {
            return;
        }
        self.inodes.copy_within(at..count, at + 1);
        self.inodes[at] = inode;
        self.count += 1;
    }
}

impl std::ops::Deref for Touched {
    type Target = [InodeId];
    fn deref(&self) -> &[InodeId] {
        &self.inodes[..usize::from(self.count)]
    }
}

impl Operation {
    /// The inodes that this operation touches, each once: operations that share one are applied in number
    /// order. [`Operation::Checkpoint`] touches none and waits for everything.
    pub fn touches(&self) -> Vec<InodeId> {
        self.touched().to_vec()
    }

    /// As [`Operation::touches`], without an allocation: it is asked for each operation on both nodes.
    pub fn touched(&self) -> Touched {
        let mut touched = Touched::default();
        match self {
            Operation::Bind { inode, parent, .. } | Operation::Link { inode, parent, .. } => {
                touched.add(*parent);
                touched.add(*inode);
            }
            Operation::Create(create) => {
                touched.add(create.parent);
                touched.add(create.inode);
            }
            Operation::Unlink(unlink) => {
                touched.add(unlink.parent);
                touched.add(unlink.victim.inode);
            }
            Operation::Rename(rename) => {
                touched.add(rename.source_parent);
                touched.add(rename.target_parent);
                touched.add(rename.moved);
                if let Some(victim) = rename.replaced {
                    touched.add(victim.inode);
                }
            }
            Operation::CopyRange { source, target, .. } => {
                touched.add(*source);
                touched.add(*target);
            }
            Operation::Write { inode, .. }
            | Operation::SetAttributes { inode, .. }
            | Operation::Fallocate { inode, .. }
            | Operation::SetXattr { inode, .. }
            | Operation::RemoveXattr { inode, .. }
            | Operation::Sync { inode, .. } => touched.add(*inode),
            Operation::Checkpoint => {}
        }
        touched
    }

    /// What [`Applied::length`] is once this is applied exactly as far as asked.
    pub fn length(&self) -> u64 {
        match self {
            Operation::Write { data, .. } => data.len() as u64,
            Operation::CopyRange { length, .. } => *length,
            Operation::Bind { .. }
            | Operation::Create(_)
            | Operation::Link { .. }
            | Operation::Unlink(_)
            | Operation::Rename(_)
            | Operation::SetAttributes { .. }
            | Operation::Fallocate { .. }
            | Operation::SetXattr { .. }
            | Operation::RemoveXattr { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => 0,
        }
    }

    /// True for what runs in the single lane of names: everything that reads or changes a listing.
    pub fn is_name_operation(&self) -> bool {
        matches!(
            self,
            Operation::Bind { .. }
                | Operation::Create(_)
                | Operation::Link { .. }
                | Operation::Unlink(_)
                | Operation::Rename(_)
        )
    }

    /// True when the refusal says that what was to be taken away is not there: a change of owner or data takes attributes
    /// of `security.*` with it, so whoever has seen one may come too late.
    pub fn is_done_already(&self, errno: Errno) -> bool {
        matches!(self, Operation::RemoveXattr { .. }) && errno == Errno::from(rustix::io::Errno::NODATA)
    }

    /// True for what only makes earlier operations durable: it waits, and nothing waits for it.
    pub fn is_sync(&self) -> bool {
        matches!(self, Operation::Sync { .. } | Operation::Checkpoint)
    }

    /// True when it takes a healthy file system hardly longer than handing it to another thread would.
    pub fn is_short(&self) -> bool {
        match self {
            Operation::Write { data, .. } => data.len() <= SHORT_WRITE_BYTES_MAX,
            // Cutting a file frees blocks, which may be many.
            Operation::SetAttributes { attributes, .. } => attributes.size.is_none(),
            Operation::Bind { .. }
            | Operation::Create(_)
            | Operation::Link { .. }
            | Operation::Unlink(_)
            | Operation::Rename(_)
            | Operation::SetXattr { .. }
            | Operation::RemoveXattr { .. } => true,
            Operation::Fallocate { .. }
            | Operation::CopyRange { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => false,
        }
    }
}
