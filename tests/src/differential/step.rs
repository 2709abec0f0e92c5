//! One call, and what it gave.

/// Who makes the call. Supplementary groups matter, so one of them has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// uid 0 with all capabilities.
    Root,
    /// uid and gid 65534, no other group.
    Nobody,
    /// uid and gid 1, and in group 65534.
    Daemon,
}

/// A path below the thread's subtree: indices into a small pool of names, so that calls meet each other.
pub type PathIndices = Vec<u8>;

/// An open descriptor's slot.
pub type Slot = usize;

/// What `rename` does with the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameFlag {
    /// Replace it.
    Plain,
    /// `RENAME_NOREPLACE`.
    NoReplace,
    /// `RENAME_EXCHANGE`.
    Exchange,
}

/// What `mknod` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A FIFO.
    Fifo,
    /// A socket's name.
    Socket,
    /// The null device's numbers.
    Character,
    /// A regular file.
    File,
}

/// One call. Numbers are chosen by the generator; lengths in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each variant is the system call of its name, with its arguments in order"
)]
pub enum Step {
    Open {
        slot: Slot,
        path: PathIndices,
        flags: u32,
        mode: u32,
    },
    OpenDirectory {
        slot: Slot,
        path: PathIndices,
    },
    Close {
        slot: Slot,
    },
    Write {
        slot: Slot,
        offset: Option<u64>,
        length: usize,
        fill: u8,
    },
    Read {
        slot: Slot,
        offset: u64,
        length: usize,
    },
    Truncate {
        slot: Slot,
        size: u64,
    },
    Fallocate {
        slot: Slot,
        mode: u32,
        offset: u64,
        length: u64,
    },
    Seek {
        slot: Slot,
        offset: u64,
        hole: bool,
    },
    Copy {
        from: Slot,
        to: Slot,
        source: u64,
        target: u64,
        length: usize,
    },
    Map {
        slot: Slot,
        offset: u64,
        length: usize,
        fill: u8,
    },
    Sync {
        slot: Slot,
        data_only: bool,
    },
    Mkdir {
        path: PathIndices,
        mode: u32,
    },
    Mknod {
        path: PathIndices,
        kind: Special,
        mode: u32,
    },
    Symlink {
        target: PathIndices,
        path: PathIndices,
    },
    Readlink {
        path: PathIndices,
    },
    Link {
        from: PathIndices,
        to: PathIndices,
    },
    Unlink {
        path: PathIndices,
    },
    Rmdir {
        path: PathIndices,
    },
    Rename {
        from: PathIndices,
        to: PathIndices,
        flag: RenameFlag,
    },
    Chmod {
        path: PathIndices,
        mode: u32,
    },
    Chown {
        path: PathIndices,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Times {
        path: PathIndices,
        seconds: i64,
        nanoseconds: i64,
    },
    SetXattr {
        path: PathIndices,
        name: u8,
        length: usize,
        fill: u8,
        flag: u8,
    },
    GetXattr {
        path: PathIndices,
        name: u8,
    },
    RemoveXattr {
        path: PathIndices,
        name: u8,
    },
    ListXattr {
        path: PathIndices,
    },
    SetAcl {
        path: PathIndices,
        default: bool,
        user: u32,
        permissions: u16,
    },
    List {
        path: PathIndices,
    },
    Stat {
        path: PathIndices,
    },
    StatOpen {
        slot: Slot,
    },
    Access {
        path: PathIndices,
        mode: u32,
    },
    Umask {
        mask: u32,
    },
}

/// What a call gave; equal on both sides or the test fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The return value.
    Value(u64),
    /// What was read, in words.
    Text(String),
    /// Bytes read: how many, and a digest.
    Bytes(usize, u64),
    /// It failed.
    Errno(i32),
    /// The slot is empty; nothing was called.
    Nothing,
}
