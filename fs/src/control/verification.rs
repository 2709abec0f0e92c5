//! What a verification shows: how far it is, and what it found. Fields are only added.

use serde::{Deserialize, Serialize};

/// How far a verification is, or how the last one ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// It goes on.
    pub running: bool,
    /// What differs is brought to the primary's state.
    pub repair: bool,
    /// Why it ended before both copies were compared completely, if it did.
    pub error: Option<String>,
    /// Directories compared.
    pub directories: u64,
    /// Regular files compared, each once whatever its names.
    pub files: u64,
    /// Other nodes compared.
    pub others: u64,
    /// Bytes of files compared, holes included.
    pub bytes: u64,
    /// What differs: one for each aspect of a node.
    pub differences: u64,
    /// Of those, what is the same now.
    pub repaired: u64,
    /// How often something was compared again while operations on it were held back.
    pub held: u64,
    /// How long it took, or has taken.
    pub seconds: f64,
    /// Bytes compared per second of late.
    pub rate_bytes_per_second: Option<f64>,
    /// What is being compared.
    pub current: Option<String>,
    /// It was told to pause.
    pub paused: bool,
    /// Most bytes per second that it was told to take.
    pub limit_bytes_per_second: Option<u64>,
    /// It is slower than it could be, because the application would notice.
    pub held_back: bool,
}

/// A verification, and what it found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How far it is, or how it ended.
    pub verification: Verification,
    /// The first differences; all of them are counted, and in the log.
    pub found: Vec<Difference>,
}

/// One thing that is not the same in both copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where; bytes that are no text are escaped.
    pub path: String,
    /// What.
    pub aspect: Aspect,
    /// Both values, for a person: the primary's is "here".
    pub detail: String,
    /// Of [`Aspect::Data`]: from and to, in bytes, in steps of the blocks compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<(u64, u64)>,
    /// What came of the repair, if one was wanted.
    #[serde(default)]
    pub repair: Option<Repair>,
}

/// In what two copies of a node differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// The secondary lacks the name.
    Missing,
    /// Only the secondary has the name.
    Extra,
    /// It is of another type, leads elsewhere, or is another device.
    Type,
    /// The secondary cannot show it.
    Unreadable,
    /// The number of its names.
    Links,
    /// The names of one file are those of several, or the other way round.
    Identity,
    /// Size.
    Size,
    /// Data.
    Data,
    /// Permission bits.
    Mode,
    /// Owner or group.
    Owner,
    /// Time of the last change of data.
    Mtime,
    /// An extended attribute, or an ACL.
    Xattr,
}

/// What came of a repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repair {
    /// Both are the same now: they were compared again.
    Done,
    /// They are not.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Aspect {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Aspect::Missing => "missing",
            Aspect::Extra => "extra",
            Aspect::Type => "type",
            Aspect::Unreadable => "unreadable",
            Aspect::Links => "links",
            Aspect::Identity => "identity",
            Aspect::Size => "size",
            Aspect::Data => "data",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Mtime => "mtime",
            Aspect::Xattr => "xattr",
        }
    }
}
