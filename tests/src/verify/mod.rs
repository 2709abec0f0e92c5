//! Are two directories the same in all that a mirror promises? Looks at the backing directories themselves,
//! past every mount, and shares no code with the file system it judges.

mod data;
mod entry;
mod walk;

pub use entry::Difference;

use crate::error::{Attempt, Result};
use ignore::gitignore::GitignoreBuilder;
use std::path::Path;

/// The root's own directory of `skfs`, on which the copies need not agree.
pub const RESERVED: &str = ".sidekick";
/// What the names of `skfs`'s own attributes of the root begin with, on which the copies need not agree either.
pub const RESERVED_ATTRIBUTES: &[u8] = b"trusted.sidekick.";

/// What is compared beyond type, mode, owner, size, links, rdev, xattrs, ACLs, link targets, data and holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Times of modification, to the nanosecond.
    pub mtime: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { mtime: true }
    }
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many names were looked at on the first side, the root included.
    pub entries: u64,
    /// How many bytes of data were compared.
    pub bytes: u64,
    /// Everything that differs, in the order of the walk.
    pub differences: Vec<Difference>,
}

/// Compares two directories.
///
/// # Errors
/// When one of them cannot be read, or changes while it is read so that a file vanishes.
pub fn compare(first: &Path, second: &Path, options: Options) -> Result<Report> {
    compare_without(&[], first, second, options)
}

/// As [`compare`], but for what these patterns of a gitignore file exclude, and, if there are any, the times of
/// directories, which excluded names change on one side only.
///
/// # Errors
/// Also for what is no pattern.
pub fn compare_without(exclude: &[String], first: &Path, second: &Path, options: Options) -> Result<Report> {
    let mut rules = GitignoreBuilder::new("");
    for pattern in exclude {
        rules
            .add_line(None, pattern)
            .map_err(std::io::Error::other)
            .attempt(|| format!("read the pattern {pattern:?}"))?;
    }
    let rules = rules.build().map_err(std::io::Error::other);
    let rules = rules.attempt(|| format!("read the patterns {exclude:?}"))?;
    walk::Walk::new(options, rules).run(first, second)
}

#[cfg(test)]
mod tests;
