//! What is excluded as it lies on disk: which names of a listing are, whether a directory may be renamed, and how a
//! secondary's own excluded names give way.
//!
//! A node that was primary once keeps what it had excluded. As a secondary it applies what the primary does, which knows
//! nothing of that: a directory that is empty there is removed here with what is excluded in it, and a name that is
//! replicated takes the place of one that was not. What gives way is moved into our own directory and removed in the
//! background.

use super::background::Task;
use super::displaced::{Displaced, LEFTOVERS};
use super::node::mtime;
use super::open::{Access, Opened, parent_of};
use super::place::name_of_directory;
use super::read::Entry;
use super::refusal::Failure;
use super::store::{Store, open_name};
use crate::exclude::{Exclusions, PerDirectory, Reach, Walk, below};
use crate::operation::{Errno as OurErrno, InodeId, Name, Operation, Rename, RenameMode};
use rustix::fs::{FileType, RawDir, SeekFrom, XattrFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Names that are looked at before a directory is renamed; with more it counts as one whose entries change.
const LOOKED_AT_MAX: usize = 10_000;
const LISTING_BYTES: usize = 32 << 10;
/// Directories above each other at most.
const DEPTH_MAX: usize = 1 << 16;
/// An excluded inode all of whose names are: it was linked by the mount, which refuses a link across the border.
pub(super) const LINKED: &[u8] = b"trusted.sidekick.excluded";

/// What a store does with excluded names that are in the way of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// They are as good as any other: the primary's.
    Stay,
    /// They go: a secondary's.
    GiveWay,
}

/// A directory, for the question which of its names are excluded.
#[derive(Debug)]
pub struct Excluding<'a> {
    rules: &'a Exclusions,
    path: PathBuf,
    /// The directory itself is.
    is_excluded: bool,
}

impl Excluding<'_> {
    /// Whether this name of it is.
    pub fn excludes(&self, name: &[u8], is_directory: bool) -> bool {
        self.is_excluded || self.rules.matches(&below(&self.path, name), is_directory)
    }

    /// The path by which it is known.
    pub fn path(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }
}

impl Store {
    /// Of these directories this is excluded.
    pub fn excluding(mut self, excluded: PerDirectory, leftovers: Leftovers) -> Self {
        self.excluded = excluded;
        self.leftovers = leftovers;
        self
    }

    /// What is excluded of each directory.
    pub fn excluded(&self) -> &PerDirectory {
        &self.excluded
    }

    /// True when something of the directory that holds `inode` may be excluded.
    pub fn excludes_near(&self, inode: InodeId) -> bool {
        self.root_of(inode).is_ok_and(|root| self.rules(root).is_some())
    }

    /// What is excluded of a directory, by the path that it has now. None when nothing of its replicated directory is.
    ///
    /// # Errors
    /// `ESTALE` when it is gone, or what the kernel says.
    pub fn excluding_in(&self, directory: InodeId) -> std::result::Result<Option<Excluding<'_>>, OurErrno> {
        let root = self.root_of(directory)?;
        let Some(rules) = self.rules(root) else {
            return Ok(None);
        };
        let opened = self.open(directory, Access::Path)?;
        Ok(Some(self.excluding_below(rules, root, &opened)?))
    }

    /// What is excluded of a directory that has this path on the primary.
    ///
    /// # Errors
    /// `ESTALE` when the directory is not known.
    pub fn excluding_at(
        &self,
        directory: InodeId,
        path: &[u8],
    ) -> std::result::Result<Option<Excluding<'_>>, OurErrno> {
        let root = self.root_of(directory)?;
        let path = PathBuf::from(OsStr::from_bytes(path));
        Ok(self.rules(root).map(|rules| Excluding {
            is_excluded: rules.covers(&path, true),
            rules,
            path,
        }))
    }

    /// Whether an entry of a listing of `directory` is excluded.
    ///
    /// # Errors
    /// What the kernel says, where the listing does not tell what the entry is.
    pub fn excludes_entry(
        &self,
        directory: InodeId,
        excluding: Option<&Excluding<'_>>,
        entry: &Entry<'_>,
    ) -> std::result::Result<bool, OurErrno> {
        let Some(excluding) = excluding else {
            return Ok(false);
        };
        let kind = match (entry.kind, Name::new(entry.name)) {
            (FileType::Unknown, Ok(name)) => match self.look_up(directory, &name) {
                Ok(found) => FileType::from_raw_mode(found.status.st_mode),
                // Removed since, or something is mounted on it.
                Err(errno) if [Errno::NOENT, Errno::XDEV].map(OurErrno::from).contains(&errno) => {
                    FileType::Unknown
                }
                Err(errno) => return Err(errno),
            },
            (kind, _) => kind,
        };
        Ok(excluding.excludes(entry.name, kind == FileType::Directory))
    }

    /// True when names below a directory that is renamed may change sides by it, whatever its paths are.
    pub fn renames_reach_far(&self, directory: InodeId) -> bool {
        let rules = self.root_of(directory).ok().and_then(|root| self.rules(root));
        rules.is_some_and(|rules| rules.reach(Path::new(""), Path::new("")) != Reach::Levels(0))
    }

    /// Whether nothing below these directories, of this primary, changes sides when they are renamed. What cannot be
    /// looked at counts as changing.
    pub fn stay(&self, walks: &[Walk]) -> bool {
        let mut left = LOOKED_AT_MAX;
        walks.iter().all(|walk| match self.stays(walk, &mut left) {
            Ok(stays) => stays,
            Err(errno) => {
                tracing::warn!(directory = %walk.from.display(), %errno,
                    "a directory cannot be looked through before it is renamed; the rename is refused");
                false
            }
        })
    }

    fn stays(&self, walk: &Walk, left: &mut usize) -> std::result::Result<bool, OurErrno> {
        let Some(rules) = self.rules(walk.root) else {
            return Ok(true);
        };
        let top = self.open(walk.directory, Access::Path)?;
        let (from, to) = (&*walk.from, &*walk.to);
        let mut stays = true;
        let seen = changes(rules, &top, from, to, walk.reach, left, &mut |_, _, _| {
            stays = false;
            Ok(())
        })?;
        Ok(stays && seen == Seen::All)
    }

    /// That all names of an excluded inode are excluded is kept with it, since a look-up by one of them cannot tell.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn mark_linked(&self, inode: InodeId) -> std::result::Result<(), OurErrno> {
        let node = self.open(inode, Access::Path)?;
        Ok(node.set_xattr(LINKED, b"1", XattrFlags::empty())?)
    }

    /// The inode has one name, whatever [`Store::mark_linked`] has noted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unmark_linked(&self, inode: InodeId) -> std::result::Result<(), OurErrno> {
        match self.open(inode, Access::Path)?.remove_xattr(LINKED) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// As [`Store::mark_linked`] has noted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn is_marked_linked(&self, parent: InodeId, name: &Name) -> std::result::Result<bool, OurErrno> {
        let directory = self.open(parent, Access::Path)?;
        let node = open_name(directory.fd(), name.as_bytes())?;
        Ok(node.has_xattr(LINKED)?)
    }

    /// True when a directory holds nothing, not even what is excluded.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn is_vacant(&self, directory: InodeId) -> std::result::Result<bool, OurErrno> {
        let opened = self.open(directory, Access::Path)?.reopen(Access::Read)?;
        Ok(names(&opened)?.is_empty())
    }

    /// Runs an operation; when names are in its way that are excluded here, they go and it is run again.
    pub(super) fn with_leftovers_out_of_the_way<T>(
        &self,
        operation: &Operation,
        run: impl Fn() -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        if self.leftovers == Leftovers::Stay || self.excluded.iter().all(Exclusions::is_empty) {
            return run();
        }
        if let Operation::Rename(rename) = operation {
            self.leave_below_renamed(rename).map_err(Failure::unchanged)?;
        }
        match run() {
            Err(Failure::Refused(errno)) if is_in_the_way(errno) => {
                if self.give_way(operation).map_err(Failure::unchanged)? {
                    run()
                } else {
                    Err(Failure::Refused(errno))
                }
            }
            done => done,
        }
    }

    /// True when something went.
    fn give_way(&self, operation: &Operation) -> Result<bool> {
        let (parent, name, wanted) = match operation {
            Operation::Create(create) => (create.parent, &create.name, Wanted::Name),
            Operation::Link { parent, name, .. } => (*parent, name, Wanted::Name),
            Operation::Rename(rename) => match rename.mode {
                RenameMode::Replace => (rename.target_parent, &rename.target_name, Wanted::Place),
                RenameMode::NoReplace => (rename.target_parent, &rename.target_name, Wanted::Name),
                RenameMode::Exchange => return Ok(false),
            },
            Operation::Unlink(unlink) => (unlink.parent, &unlink.name, Wanted::Emptiness),
            Operation::Bind { .. }
            | Operation::Write { .. }
            | Operation::SetAttributes { .. }
            | Operation::Fallocate { .. }
            | Operation::CopyRange { .. }
            | Operation::SetXattr { .. }
            | Operation::RemoveXattr { .. }
            | Operation::Sync { .. }
            | Operation::Checkpoint => return Ok(false),
        };
        let (Ok(root), Ok(directory)) = (self.root_of(parent), self.open(parent, Access::Path)) else {
            return Ok(false);
        };
        let Some(rules) = self.rules(root) else {
            return Ok(false);
        };
        let there = match open_name(directory.fd(), name.as_bytes()) {
            Ok(there) => there,
            Err(Errno::NOENT | Errno::XDEV) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        let is_directory = FileType::from_raw_mode(there.status()?.st_mode) == FileType::Directory;
        let here = self.excluding_below(rules, root, &directory)?;
        if wanted != Wanted::Emptiness && here.excludes(name.as_bytes(), is_directory) {
            self.leave(root, &directory, name.as_bytes())?;
            return Ok(true);
        }
        if !is_directory || wanted == Wanted::Name {
            return Ok(false);
        }
        // It is empty on the primary.
        let path = below(&here.path, name.as_bytes());
        let readable = there.reopen(Access::Read)?;
        let left = names(&readable)?;
        let is_left = |(name, kind): &(Vec<u8>, FileType)| {
            rules.matches(&below(&path, name), *kind == FileType::Directory)
        };
        if left.is_empty() || !left.iter().all(is_left) {
            return Ok(false);
        }
        for (name, _) in left {
            self.leave(root, &there, &name)?;
        }
        Ok(true)
    }

    /// What is excluded below a directory and would not be under its new path.
    fn leave_below_renamed(&self, rename: &Rename) -> Result<()> {
        let source = (rename.source_parent, &rename.source_name);
        let target = (rename.target_parent, &rename.target_name);
        self.leave_below(source, target)?;
        if rename.mode == RenameMode::Exchange {
            self.leave_below(target, source)?;
        }
        Ok(())
    }

    fn leave_below(&self, from: (InodeId, &Name), to: (InodeId, &Name)) -> Result<()> {
        // What is not known here is refused by the operation itself.
        let (Ok(root), Ok(source), Ok(target)) = (
            self.root_of(from.0),
            self.open(from.0, Access::Path),
            self.open(to.0, Access::Path),
        ) else {
            return Ok(());
        };
        let moved = match open_name(source.fd(), from.1.as_bytes()) {
            Ok(moved) => moved,
            Err(Errno::NOENT | Errno::XDEV) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        if FileType::from_raw_mode(moved.status()?.st_mode) != FileType::Directory
            || self.rules(root).is_none()
        {
            return Ok(());
        }
        let (from_path, to_path) = (self.path_below(root, &source)?, self.path_below(root, &target)?);
        let to_path = below(&to_path, to.1.as_bytes());
        self.leave_what_changes(root, &moved, &below(&from_path, from.1.as_bytes()), &to_path)
    }

    /// Takes away what is excluded below the directory `moved` at one path and not at the other. The reverse is not there:
    /// the primary has looked.
    fn leave_what_changes(&self, root: usize, moved: &Opened, from: &Path, to: &Path) -> Result<()> {
        let Some(rules) = self.rules(root) else {
            return Ok(());
        };
        let reach = rules.reach(from, to);
        if reach == Reach::Levels(0) {
            return Ok(());
        }
        let mut left = usize::MAX;
        let mut uncovered = Vec::new();
        let mut found = |directory: &Opened, name: &[u8], was_excluded: bool| {
            if was_excluded {
                uncovered.push((directory.clone(), name.to_vec()));
            }
            Ok(())
        };
        changes(rules, moved, from, to, reach, &mut left, &mut found)?;
        for (directory, name) in uncovered {
            self.leave(root, &directory, &name)?;
        }
        Ok(())
    }

    /// Moves a name into our own directory, from where it is removed in the background. The directory keeps its `mtime`,
    /// which is the primary's.
    fn leave(&self, root: usize, directory: &Opened, name: &[u8]) -> Result<()> {
        let before = directory.status()?;
        Displaced::make(self.root(root), LEFTOVERS)?.take(directory, name)?;
        directory.set_times(None, Some(mtime(&before)))?;
        self.in_background(Task::ClearLeftovers);
        Ok(())
    }

    fn rules(&self, root: usize) -> Option<&Exclusions> {
        self.excluded.get(root).filter(|rules| !rules.is_empty())
    }

    fn excluding_below<'a>(
        &'a self,
        rules: &'a Exclusions,
        root: usize,
        directory: &Opened,
    ) -> Result<Excluding<'a>> {
        let path = self.path_below(root, directory)?;
        let is_excluded = rules.covers(&path, true);
        Ok(Excluding {
            rules,
            path,
            is_excluded,
        })
    }

    /// Where a directory lies below its replicated directory: read in one step, so that a rename of a directory above
    /// does not show half done.
    fn path_below(&self, root: usize, directory: &Opened) -> Result<PathBuf> {
        let read = |opened: &Opened| rustix::fs::readlink(opened.proc_path(), Vec::new());
        let top = self.root(root).node();
        match (read(top), read(directory)) {
            (Ok(top), Ok(path)) => {
                let path = Path::new(OsStr::from_bytes(path.to_bytes()));
                let below = path.strip_prefix(OsStr::from_bytes(top.to_bytes()));
                below.map(Path::to_owned).map_err(|_| Errno::STALE)
            }
            // Longer than the kernel tells.
            (Err(Errno::NAMETOOLONG), _) | (_, Err(Errno::NAMETOOLONG)) => {
                self.path_by_steps(root, directory)
            }
            (Err(errno), _) | (_, Err(errno)) => Err(errno),
        }
    }

    fn path_by_steps(&self, root: usize, directory: &Opened) -> Result<PathBuf> {
        let identity = |opened: &Opened| opened.status().map(|status| (status.st_dev, status.st_ino));
        let top = identity(self.root(root).node())?;
        let mut names = Vec::new();
        let mut next = directory.clone();
        for _ in 0..DEPTH_MAX {
            if identity(&next)? == top {
                let join = |path: PathBuf, name: &Vec<u8>| below(&path, name);
                return Ok(names.iter().rev().fold(PathBuf::new(), join));
            }
            let parent = parent_of(&next)?;
            names.push(name_of_directory(&next, &next.status()?, &parent)?);
            next = parent;
        }
        Err(Errno::NAMETOOLONG)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    All,
    /// There was more than may be looked at.
    Part,
}

/// What an operation needs of the name that is in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// That it is free.
    Name,
    /// That it is free, or an empty directory.
    Place,
    /// That it is an empty directory.
    Emptiness,
}

type Found<'a> = dyn FnMut(&Opened, &[u8], bool) -> Result<()> + 'a;

/// Calls `found` with the directory, the name, and whether it is excluded at `from`, for each name below the directory `top` that is excluded at one of two paths of it and not at the other.
fn changes(
    rules: &Exclusions,
    top: &Opened,
    from: &Path,
    to: &Path,
    reach: Reach,
    left: &mut usize,
    found: &mut Found<'_>,
) -> Result<Seen> {
    let mut waiting = vec![(top.clone(), PathBuf::new(), 1_usize)];
    while let Some((directory, path, level)) = waiting.pop() {
        let is_deeper = match reach {
            Reach::Levels(levels) if level > levels => continue,
            Reach::Levels(levels) => level < levels,
            Reach::Everything => true,
        };
        let readable = directory.reopen(Access::Read)?;
        for (name, kind) in names(&readable)? {
            if *left == 0 {
                return Ok(Seen::Part);
            }
            *left -= 1;
            let is_directory = kind == FileType::Directory;
            let below_top = below(&path, &name);
            let is = rules.matches(&from.join(&below_top), is_directory);
            let becomes = rules.matches(&to.join(&below_top), is_directory);
            if is != becomes {
                found(&directory, &name, is)?;
            } else if !is && is_directory && is_deeper {
                match open_name(directory.fd(), &name) {
                    Ok(next) => waiting.push((next, below_top, level + 1)),
                    // Something is mounted on it.
                    Err(Errno::XDEV) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
    }
    Ok(Seen::All)
}

/// The entries of a readable directory but the dots, with their true types.
fn names(directory: &Opened) -> Result<Vec<(Vec<u8>, FileType)>> {
    rustix::fs::seek(directory.fd(), SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(LISTING_BYTES);
    let mut entries = RawDir::new(directory.fd(), buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => FileType::from_raw_mode(open_name(directory.fd(), name)?.status()?.st_mode),
            kind => kind,
        };
        names.push((name.to_vec(), kind));
    }
    Ok(names)
}

/// What an operation is refused with because of a name that is there.
fn is_in_the_way(errno: OurErrno) -> bool {
    [Errno::EXIST, Errno::NOTEMPTY, Errno::ISDIR, Errno::NOTDIR].contains(&Errno::from_raw_os_error(errno.0))
}
