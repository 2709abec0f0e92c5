//! Puts aside what a copy is about to overwrite: complete and on disk before the first byte of it changes.
//!
//! An archive lies in our own directory, `.sidekick/archive/<time>-<generation>`, which is on the same file system
//! also where the replicated directory is a mount point, and which no copy touches. It holds `files`, everything that
//! the replicated directory held (shared with it where the file system can, else copied with its holes),
//! `manifest.jsonl`, which lists it, `changes.jsonl`, which says what of it was changed apart from the other copy
//! ([`changes`]), and `summary.json`. Until it is on disk its name ends with `.partial`; what a crash
//! leaves of such a one is removed by the next.
//!
//! Nothing else changes the directory meanwhile: it is a secondary's, covered and without a session.

mod changes;

pub use changes::Changes;

use super::abilities::reserved_directory;
use super::marker::is_own;
use super::store::Store;
use super::walk::{RESERVED, is_reserved};
use crate::control::archive::Archive;
use crate::hash::HashMap;
use crate::operation::Name;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;

const ARCHIVE: &str = "archive";
const PARTIAL: &str = ".partial";
const FILES: &str = "files";
const MANIFEST: &str = "manifest.jsonl";
const CHANGES: &str = "changes.jsonl";
const SUMMARY: &str = "summary.json";
/// Of a summary that is read.
const SUMMARY_BYTES_MAX: u64 = 64 << 10;
const BUFFER_BYTES: usize = 1 << 20;
/// Counted for each entry beside its data: an inode, its name, and its line of the manifest.
const ENTRY_BYTES: u64 = 4096;

/// What an archive is of; the first line of its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occasion {
    /// The module.
    pub module: String,
    /// The line of writes that is given up.
    pub generation: String,
    /// The one that it left.
    pub base: String,
}

/// An archive that is complete and on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// Where, below the replicated directory.
    pub place: String,
    /// How many files, directories and other entries.
    pub entries: u64,
    /// Bytes of data in its files, holes left out.
    pub bytes: u64,
}

/// How much is in one: `summary.json`.
#[derive(Serialize, Deserialize)]
struct Summary {
    #[serde(flatten)]
    occasion: Occasion,
    entries: u64,
    bytes: u64,
}

/// Why there is none. What was made of it is left for the next to remove.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Nothing was begun.
    #[error("an archive of {directory} needs {needed} bytes and {free} are free: make room there")]
    NoRoom {
        /// The replicated directory.
        directory: String,
        /// An upper bound.
        needed: u64,
        /// For everybody.
        free: u64,
    },
    /// The system refused.
    #[error("cannot {attempt} {path}: {source}")]
    System {
        /// Which step.
        attempt: &'static str,
        /// On what, below the replicated directory.
        path: String,
        /// Why.
        source: Errno,
    },
}

/// A file of JSON values, a line each, that is being written.
struct Lines {
    name: &'static str,
    out: BufWriter<File>,
}

/// A line about one path.
#[derive(Serialize)]
struct Line<'a, T> {
    path: Cow<'a, str>,
    /// The path as it is, where that is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
    #[serde(flatten)]
    what: T,
}

/// What the manifest says of an entry.
#[derive(Serialize)]
struct Listed {
    kind: &'static str,
    size: u64,
}

impl Lines {
    fn new(archive: BorrowedFd<'_>, name: &'static str) -> Result<Self, ArchiveError> {
        let file = new_file(archive, name).map_err(|errno| failed("make", name.as_bytes(), errno))?;
        let out = BufWriter::new(File::from(file));
        Ok(Lines { name, out })
    }

    fn put(&mut self, line: &impl Serialize) -> Result<(), ArchiveError> {
        serde_json::to_writer(&mut self.out, line)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(|error| io_failed("write", self.name.as_bytes(), &error))
    }

    fn tell(&mut self, path: &[u8], what: impl Serialize) -> Result<(), ArchiveError> {
        self.put(&Line {
            path: String::from_utf8_lossy(path),
            path_bytes: std::str::from_utf8(path).is_err().then_some(path),
            what,
        })
    }

    fn finish(mut self) -> Result<(), ArchiveError> {
        let flushed = self.out.flush();
        flushed.map_err(|error| io_failed("write", self.name.as_bytes(), &error))
    }
}

impl Store {
    /// Makes an archive of each replicated directory that holds anything, as `name`. `changes`: none when it is not
    /// known what was changed apart.
    ///
    /// # Errors
    /// [`ArchiveError`]; then nothing of the directories may be overwritten, and there is none of this name.
    pub fn archive(
        &self,
        name: &str,
        occasion: &Occasion,
        changes: Option<&Changes<'_>>,
    ) -> Result<Vec<Archived>, ArchiveError> {
        let made = self.archive_all(name, occasion, changes);
        if made.is_err()
            && let Err(error) = self.remove_archive(name)
        {
            tracing::warn!(%error, name, "what was put aside of the other directories is left");
        }
        made
    }

    fn archive_all(
        &self,
        name: &str,
        occasion: &Occasion,
        changes: Option<&Changes<'_>>,
    ) -> Result<Vec<Archived>, ArchiveError> {
        let mut made = Vec::new();
        for index in 0..self.directories() {
            let root = self.root(index);
            let directory = root.name();
            let own = reserved_directory(root).map_err(|errno| failed("make", b".sidekick", errno))?;
            let mut size = Size::default();
            walk(root.mount.as_fd(), root.device, &mut size)?;
            if size.entries == 0 {
                continue;
            }
            let archives = archives(own.fd())?;
            remove_partial(archives.as_fd())?;
            let shares = match &size.sample {
                Some(sample) => can_share(sample, archives.as_fd())?,
                None => true,
            };
            let room = rustix::fs::fstatvfs(&archives)
                .map_err(|errno| failed("ask for the room of", ARCHIVE.as_bytes(), errno))?;
            let free = room.f_bavail.saturating_mul(room.f_frsize);
            let needed = size.needed(shares);
            if needed > free {
                return Err(ArchiveError::NoRoom {
                    directory,
                    needed,
                    free,
                });
            }
            let summary = Summary {
                occasion: occasion.clone(),
                entries: size.entries,
                bytes: size.bytes,
            };
            let list = |lines: &mut Lines| changes::list(self, index, changes, lines);
            copy(
                root.mount.as_fd(),
                root.device,
                archives.as_fd(),
                name,
                &summary,
                list,
            )?;
            made.push(Archived {
                place: format!("{directory}/.sidekick/{ARCHIVE}/{name}"),
                entries: size.entries,
                bytes: size.bytes,
            });
        }
        Ok(made)
    }

    /// The archives of all directories that are complete, by name.
    ///
    /// # Errors
    /// What the system says.
    pub fn archives(&self) -> Result<Vec<Archive>, ArchiveError> {
        let mut found = Vec::new();
        for index in 0..self.directories() {
            let root = self.root(index);
            let directory = root.name();
            let Some(archives) = existing(root.mount.as_fd())? else {
                continue;
            };
            let names = names_in(archives.as_fd(), false);
            for name in names.map_err(|errno| failed("list", ARCHIVE.as_bytes(), errno))? {
                let Ok(text) = name.to_str() else { continue };
                if text.ends_with(PARTIAL) {
                    continue;
                }
                let summary = read_summary(archives.as_fd(), &name);
                let summary =
                    summary.map_err(|error| io_failed("read the summary of", name.to_bytes(), &error))?;
                found.push(Archive {
                    path: format!("{directory}/.sidekick/{ARCHIVE}/{text}"),
                    name: text.to_owned(),
                    generation: summary.occasion.generation,
                    entries: summary.entries,
                    bytes: summary.bytes,
                });
            }
        }
        found.sort_by(|one, other| (&one.name, &one.path).cmp(&(&other.name, &other.path)));
        Ok(found)
    }

    /// Removes an archive of every directory that has it. False when none has.
    ///
    /// # Errors
    /// What the system says; then some of it may be left.
    pub fn remove_archive(&self, name: &str) -> Result<bool, ArchiveError> {
        let mut removed = false;
        if Name::new(name.as_bytes()).is_err() {
            return Ok(false);
        }
        for index in 0..self.directories() {
            let Some(archives) = existing(self.root(index).mount.as_fd())? else {
                continue;
            };
            // From now on it is no archive any more, however far the removal gets.
            let gone = format!("{name}{PARTIAL}");
            match rustix::fs::renameat(&archives, name, &archives, &gone) {
                Ok(()) => removed = true,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed("remove", name.as_bytes(), errno)),
            }
            remove(archives.as_fd(), gone.as_bytes())?;
        }
        Ok(removed)
    }
}

/// The directory of all archives, if there is one.
fn existing(root: BorrowedFd<'_>) -> Result<Option<OwnedFd>, ArchiveError> {
    let own = open_directory(root, RESERVED).and_then(|own| open_directory(own.as_fd(), ARCHIVE));
    match own {
        Ok(archives) => Ok(Some(archives)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed("open", ARCHIVE.as_bytes(), errno)),
    }
}

fn read_summary(archives: BorrowedFd<'_>, name: &CStr) -> io::Result<Summary> {
    let archive = open_directory(archives, name)?;
    let file = open_file(archive.as_fd(), SUMMARY)?;
    let mut text = Vec::new();
    File::from(file).take(SUMMARY_BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn remove(archives: BorrowedFd<'_>, name: &[u8]) -> Result<(), ArchiveError> {
    let mut path = format!("/proc/self/fd/{}/", archives.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    std::fs::remove_dir_all(as_path(&path)).map_err(|error| io_failed("remove", name, &error))
}

fn failed(attempt: &'static str, path: &[u8], source: Errno) -> ArchiveError {
    let path = String::from_utf8_lossy(path).into_owned();
    ArchiveError::System {
        attempt,
        path,
        source,
    }
}

fn io_failed(attempt: &'static str, path: &[u8], source: &io::Error) -> ArchiveError {
    failed(attempt, path, Errno::from_io_error(source).unwrap_or(Errno::IO))
}

/// The directory of all archives.
fn archives(own: BorrowedFd<'_>) -> Result<OwnedFd, ArchiveError> {
    let name = ARCHIVE.as_bytes();
    match rustix::fs::mkdirat(own, ARCHIVE, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("make", name, errno)),
    }
    open_directory(own, ARCHIVE).map_err(|errno| failed("open", name, errno))
}

fn open_directory(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// What a crash has left.
fn remove_partial(archives: BorrowedFd<'_>) -> Result<(), ArchiveError> {
    for name in names_in(archives, false).map_err(|errno| failed("list", ARCHIVE.as_bytes(), errno))? {
        if name.to_bytes().ends_with(PARTIAL.as_bytes()) {
            remove(archives, name.to_bytes())?;
        }
    }
    Ok(())
}

fn as_path(bytes: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    std::path::Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Whether a file of the directory can share its blocks with one in the archive.
fn can_share(sample: &OwnedFd, archives: BorrowedFd<'_>) -> Result<bool, ArchiveError> {
    // A name that a crash leaves is removed like an archive.
    let name = format!("trial{PARTIAL}");
    rustix::fs::mkdirat(archives, &name, Mode::RWXU)
        .map_err(|errno| failed("make", name.as_bytes(), errno))?;
    let directory =
        open_directory(archives, &name).map_err(|errno| failed("open", name.as_bytes(), errno))?;
    let trial = new_file(directory.as_fd(), c"trial").map_err(|errno| failed("make", b"trial", errno))?;
    let shares = rustix::fs::ioctl_ficlone(&trial, sample).is_ok();
    remove_partial(archives)?;
    Ok(shares)
}

fn new_file(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
}

fn copy(
    source: BorrowedFd<'_>,
    device: u64,
    archives: BorrowedFd<'_>,
    name: &str,
    summary: &Summary,
    list_changes: impl FnOnce(&mut Lines) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let partial = format!("{name}{PARTIAL}");
    let make = |parent: BorrowedFd<'_>, name: &str| {
        rustix::fs::mkdirat(parent, name, Mode::RWXU)
            .and_then(|()| open_directory(parent, name))
            .map_err(|errno| failed("make", name.as_bytes(), errno))
    };
    let archive = make(archives, &partial)?;
    let files = make(archive.as_fd(), FILES)?;
    let mut copier = Copier {
        manifest: Lines::new(archive.as_fd(), MANIFEST)?,
        above: vec![files],
        links: HashMap::default(),
    };
    copier.manifest.put(&summary.occasion)?;
    walk(source, device, &mut copier)?;
    copier.manifest.finish()?;
    let mut changes = Lines::new(archive.as_fd(), CHANGES)?;
    list_changes(&mut changes)?;
    changes.finish()?;
    new_file(archive.as_fd(), SUMMARY)
        .map_err(io::Error::from)
        .and_then(|file| serde_json::to_writer(File::from(file), summary).map_err(io::Error::from))
        .map_err(|error| io_failed("write", SUMMARY.as_bytes(), &error))?;
    // Opened before anything was written, so that it sees every error of writing back.
    rustix::fs::syncfs(&archive).map_err(|errno| failed("sync", partial.as_bytes(), errno))?;
    rustix::fs::renameat(archives, &partial, archives, name)
        .and_then(|()| rustix::fs::fsync(archives))
        .map_err(|errno| failed("complete", partial.as_bytes(), errno))
}

/// What [`walk`] comes across. Paths are relative to the replicated directory.
trait Visitor {
    fn enter(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        status: &Stat,
    ) -> Result<(), ArchiveError>;
    fn leave(&mut self, directory: BorrowedFd<'_>, path: &[u8], status: &Stat) -> Result<(), ArchiveError>;
    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        status: &Stat,
    ) -> Result<(), ArchiveError>;
}

struct Level {
    directory: OwnedFd,
    names: Vec<CString>,
    path: Vec<u8>,
    status: Stat,
}

/// Everything in a replicated directory but what is ours and what is mounted there. Not recursive: directories may lie
/// deep. One descriptor for each level; where they run out that is an error.
fn walk(root: BorrowedFd<'_>, device: u64, visitor: &mut dyn Visitor) -> Result<(), ArchiveError> {
    let level = |directory: OwnedFd, path: Vec<u8>| {
        let status = rustix::fs::fstat(&directory).map_err(|errno| failed("look at", &path, errno))?;
        let names =
            names_in(directory.as_fd(), path.is_empty()).map_err(|errno| failed("list", &path, errno))?;
        Ok(Level {
            directory,
            names,
            path,
            status,
        })
    };
    let top = open_directory(root, c".").map_err(|errno| failed("open", b".", errno))?;
    let mut levels = vec![level(top, Vec::new())?];
    while let Some(last) = levels.last_mut() {
        let Some(name) = last.names.pop() else {
            visitor.leave(last.directory.as_fd(), &last.path, &last.status)?;
            levels.pop();
            continue;
        };
        let mut path = last.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        let status = rustix::fs::statat(&last.directory, &*name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("look at", &path, errno))?;
        if status.st_dev != device {
            continue;
        }
        if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
            visitor.entry(last.directory.as_fd(), &name, &path, &status)?;
            continue;
        }
        let below =
            open_directory(last.directory.as_fd(), &*name).map_err(|errno| failed("open", &path, errno))?;
        visitor.enter(below.as_fd(), &name, &path, &status)?;
        levels.push(level(below, path)?);
    }
    Ok(())
}

fn names_in(directory: BorrowedFd<'_>, is_root: bool) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") && !is_reserved(is_root, name.to_bytes()) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// How much there is.
#[derive(Default)]
struct Size {
    entries: u64,
    bytes: u64,
    /// A file that has data.
    sample: Option<OwnedFd>,
    /// Files of several names that are counted.
    counted: HashMap<u64, ()>,
}

impl Size {
    fn needed(&self, shares: bool) -> u64 {
        let data = if shares { 0 } else { self.bytes };
        data.saturating_add(self.entries.saturating_mul(ENTRY_BYTES))
    }
}

impl Visitor for Size {
    fn enter(&mut self, _: BorrowedFd<'_>, _: &CStr, _: &[u8], _: &Stat) -> Result<(), ArchiveError> {
        self.entries += 1;
        Ok(())
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &[u8], _: &Stat) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        status: &Stat,
    ) -> Result<(), ArchiveError> {
        self.entries += 1;
        let is_first = status.st_nlink == 1 || self.counted.insert(status.st_ino, ()).is_none();
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile || !is_first {
            return Ok(());
        }
        self.bytes += (status.st_blocks as u64).saturating_mul(512);
        if self.sample.is_none() && status.st_blocks > 0 {
            self.sample = Some(open_file(parent, name).map_err(|errno| failed("open", path, errno))?);
        }
        Ok(())
    }
}

fn open_file(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

struct Copier {
    manifest: Lines,
    /// The archive's directories above the present one, and that.
    above: Vec<OwnedFd>,
    /// The first name of each file that has several.
    links: HashMap<u64, Vec<u8>>,
}

impl Copier {
    fn list(&mut self, path: &[u8], status: &Stat) -> Result<(), ArchiveError> {
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => "file",
            FileType::Directory => "directory",
            FileType::Symlink => "symlink",
            FileType::Fifo => "fifo",
            FileType::Socket => "socket",
            FileType::CharacterDevice => "character-device",
            FileType::BlockDevice => "block-device",
            FileType::Unknown => "unknown",
        };
        let size = status.st_size as u64;
        self.manifest.tell(path, Listed { kind, size })
    }

    fn here(&self) -> BorrowedFd<'_> {
        // `leave` takes away only what `enter` has added to the first.
        self.above[self.above.len() - 1].as_fd()
    }

    fn make(&self, parent: BorrowedFd<'_>, name: &CStr, status: &Stat) -> rustix::io::Result<()> {
        let here = self.here();
        match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => {
                let (source, target) = (open_file(parent, name)?, new_file(here, name)?);
                if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
                    copy_data(&source, &target, status.st_size as u64)?;
                }
            }
            FileType::Symlink => {
                let content = rustix::fs::readlinkat(parent, name, Vec::new())?;
                rustix::fs::symlinkat(&*content, here, name)?;
            }
            kind => rustix::fs::mknodat(here, name, kind, Mode::RUSR | Mode::WUSR, status.st_rdev)?,
        }
        copy_attributes(&beside(parent, name), &beside(here, name), status, false)
    }
}

impl Visitor for Copier {
    fn enter(
        &mut self,
        _: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        status: &Stat,
    ) -> Result<(), ArchiveError> {
        self.list(path, status)?;
        let made = rustix::fs::mkdirat(self.here(), name, Mode::RWXU)
            .and_then(|()| open_directory(self.here(), name))
            .map_err(|errno| failed("put aside", path, errno))?;
        self.above.push(made);
        Ok(())
    }

    fn leave(&mut self, directory: BorrowedFd<'_>, path: &[u8], status: &Stat) -> Result<(), ArchiveError> {
        let is_root = self.above.len() == 1;
        copy_attributes(
            &beside(directory, c"."),
            &beside(self.here(), c"."),
            status,
            is_root,
        )
        .map_err(|errno| failed("put aside the attributes of", path, errno))?;
        if !is_root {
            self.above.pop();
        }
        Ok(())
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        status: &Stat,
    ) -> Result<(), ArchiveError> {
        self.list(path, status)?;
        if status.st_nlink > 1 {
            if let Some(first) = self.links.get(&status.st_ino) {
                let linked =
                    rustix::fs::linkat(&self.above[0], &**first, self.here(), name, AtFlags::empty());
                match linked {
                    Ok(()) => return Ok(()),
                    // Too deep for a path, or too many: it becomes a file of its own.
                    Err(Errno::NAMETOOLONG | Errno::MLINK) => {}
                    Err(errno) => return Err(failed("put aside", path, errno)),
                }
            } else {
                self.links.insert(status.st_ino, path.to_vec());
            }
        }
        self.make(parent, name, status)
            .map_err(|errno| failed("put aside", path, errno))
    }
}

/// Only what is allocated: holes stay holes.
fn copy_data(source: &OwnedFd, target: &OwnedFd, size: u64) -> rustix::io::Result<()> {
    rustix::fs::ftruncate(target, size)?;
    let as_file = |descriptor: &OwnedFd| -> rustix::io::Result<File> {
        let copy = descriptor.try_clone();
        Ok(File::from(copy.map_err(|error| {
            Errno::from_io_error(&error).unwrap_or(Errno::IO)
        })?))
    };
    let (from, to) = (as_file(source)?, as_file(target)?);
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut offset = 0;
    while offset < size {
        let begin = match rustix::fs::seek(source, SeekFrom::Data(offset)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(begin))?.min(size);
        offset = begin;
        while offset < end {
            let want = BUFFER_BYTES.min((end - offset) as usize);
            let got = from.read_at(&mut buffer[..want], offset).map_err(errno)?;
            if got == 0 {
                // Shorter than it was: somebody changes it.
                return Err(Errno::IO);
            }
            to.write_all_at(&buffer[..got], offset).map_err(errno)?;
            offset += got as u64;
        }
    }
    Ok(())
}

/// A path that is short however deep the directory lies.
fn beside(parent: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    path
}

/// Owner, extended attributes, mode, times, in this order: a change of owner takes capabilities and bits away.
fn copy_attributes(from: &[u8], to: &[u8], status: &Stat, is_root: bool) -> rustix::io::Result<()> {
    let here = rustix::fs::CWD;
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    rustix::fs::chownat(here, to, Some(uid), Some(gid), nofollow)?;
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(from, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    let mut value = vec![0; 64 << 10];
    for name in list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if is_own(is_root, name) {
            continue;
        }
        let length = rustix::fs::lgetxattr(from, name, &mut value[..])?;
        rustix::fs::lsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    if FileType::from_raw_mode(status.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(here, to, Mode::from_raw_mode(status.st_mode), AtFlags::empty())?;
    }
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: status.st_atime,
            tv_nsec: status.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: status.st_mtime,
            tv_nsec: status.st_mtime_nsec as _,
        },
    };
    rustix::fs::utimensat(here, to, &times, nofollow)
}

#[cfg(test)]
mod tests;
