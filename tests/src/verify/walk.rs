//! Walks two directories side by side.

use super::entry::{Difference, Entry};
use super::{Options, RESERVED, Report, data};
use crate::error::{Attempt, Result};
use ignore::gitignore::Gitignore;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where an inode of a side was met first: hard links agree when these agree.
type FirstNames = HashMap<(u64, u64), PathBuf>;

/// A comparison in progress. Directories are held open from the root down to the present one, so that neither
/// the length of a path nor a rename above matters.
#[derive(Debug)]
pub(super) struct Walk {
    options: Options,
    /// What is left out.
    rules: Gitignore,
    report: Report,
    first_names: [FirstNames; 2],
    path: PathBuf,
}

impl Walk {
    pub fn new(options: Options, rules: Gitignore) -> Self {
        Walk {
            options,
            rules,
            report: Report::default(),
            first_names: [FirstNames::new(), FirstNames::new()],
            path: PathBuf::new(),
        }
    }

    pub fn run(mut self, first: &Path, second: &Path) -> Result<Report> {
        let open = |path: &Path| open_directory(CWD, path.as_os_str()).on("open the directory", path);
        let (one, other) = (open(first)?, open(second)?);
        self.report.entries += 1;
        self.entry(one.as_fd(), other.as_fd(), OsStr::new("."))?;
        // The levels still to be finished, the present directory last.
        let mut levels = vec![self.level(one, other)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                levels.pop();
                self.path.pop();
                continue;
            };
            self.path.push(&name);
            self.report.entries += 1;
            let kinds = self.entry(level.first.as_fd(), level.second.as_fd(), &name)?;
            if kinds == Some(FileType::Directory) {
                let below = |side: &OwnedFd, path: &Path| open_directory(side, &name).on("open", path);
                let (one, other) = (
                    below(&level.first, &self.path)?,
                    below(&level.second, &self.path)?,
                );
                let next = self.level(one, other)?;
                levels.push(next);
            } else {
                self.path.pop();
            }
        }
        Ok(self.report)
    }

    /// Lists both directories; reports names that only one has, and leaves the others to be compared.
    fn level(&mut self, first: OwnedFd, second: OwnedFd) -> Result<Level> {
        let (names, other_names) = (self.names(&first)?, self.names(&second)?);
        for (missing, side) in [
            (names.difference(&other_names), "first"),
            (other_names.difference(&names), "second"),
        ] {
            for name in missing {
                self.report.differences.push(Difference {
                    path: self.path.join(name),
                    what: format!("only on the {side} side"),
                });
            }
        }
        // Taken from the end: reversed, the walk goes in the order of names, the same on every run.
        let names = names
            .iter()
            .rev()
            .filter(|name| other_names.contains(*name))
            .cloned()
            .collect();
        Ok(Level { first, second, names })
    }

    fn names(&self, directory: &OwnedFd) -> Result<BTreeSet<OsString>> {
        let is_root = self.path.as_os_str().is_empty();
        let mut names = BTreeSet::new();
        for entry in Dir::read_from(directory).on("list", &self.path)? {
            let entry = entry.on("list", &self.path)?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if name == "." || name == ".." || (is_root && name == RESERVED) {
                continue;
            }
            let is_directory = entry.file_type() == FileType::Directory;
            // What lies below it is left out with it, since the walk does not come there.
            if !self
                .rules
                .matched(self.path.join(&name), is_directory)
                .is_ignore()
            {
                names.insert(name);
            }
        }
        Ok(names)
    }

    /// Compares one name; gives its type if both sides agree on it.
    fn entry(
        &mut self,
        first: BorrowedFd<'_>,
        second: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<Option<FileType>> {
        let one = Entry::read(first, name, &self.path)?;
        let other = Entry::read(second, name, &self.path)?;
        let is_excluding = !self.rules.is_empty() && one.kind == FileType::Directory;
        let options = Options {
            mtime: self.options.mtime && !is_excluding,
        };
        let mut found = one.differences(&other, options);
        let same_kind = one.kind == other.kind;
        if one.kind != FileType::Directory && same_kind {
            let seen_before = self.links(&one, &other, &mut found);
            let comparable = one.kind == FileType::RegularFile && one.size == other.size;
            if comparable && !seen_before {
                let open = |side| open_file(side, name).on("open", &self.path);
                let (bytes, differences) =
                    data::compare(&open(first)?, &open(second)?, one.size, &self.path)?;
                self.report.bytes += bytes;
                found.extend(differences);
            }
        }
        let path = &self.path;
        self.report
            .differences
            .extend(found.into_iter().map(|what| Difference {
                path: path.clone(),
                what,
            }));
        Ok(same_kind.then_some(one.kind))
    }

    /// Notes where the two inodes were met first. True if both were met before, so their data was compared.
    fn links(&mut self, one: &Entry, other: &Entry, found: &mut Vec<String>) -> bool {
        if one.links < 2 && other.links < 2 {
            return false;
        }
        let [names, other_names] = &mut self.first_names;
        let first = names.entry(one.identity).or_insert_with(|| self.path.clone());
        let second = other_names
            .entry(other.identity)
            .or_insert_with(|| self.path.clone());
        if first != second {
            found.push(format!("hard link of {first:?} and of {second:?}"));
            return false;
        }
        *first != self.path
    }
}

#[derive(Debug)]
struct Level {
    first: OwnedFd,
    second: OwnedFd,
    names: Vec<OsString>,
}

fn open_directory(parent: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Without waiting for whoever holds a lease, and without a trace in the file's times.
fn open_file(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOATIME;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}
