//! What was put aside before a copy overwrote it, for a person.

use serde::{Deserialize, Serialize};

/// One archive of one replicated directory, complete and on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// `<time>-<generation>`; the same in every directory of the module.
    pub name: String,
    /// Where it lies, while the directory is not mounted over: `files` in it is the directory as it was.
    pub path: String,
    /// The line of writes that was given up.
    pub generation: String,
    /// How many files, directories and other entries.
    pub entries: u64,
    /// Bytes of data in them, holes left out.
    pub bytes: u64,
}
