//! Both copies were changed apart from each other: which of the two sides' changes go. Pure.
//!
//! Whatever is discarded is put aside first, completely and durably; that is not decided here.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Who decides it, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The primary's changes stay.
    KeepPrimary,
    /// The side that changed less loses its changes.
    DiscardLeastChanges,
    /// A side that changed nothing loses what is nothing; if both changed something, a person decides.
    #[default]
    DiscardZeroChanges,
    /// A person decides.
    Manual,
}

/// How much one side has changed since the two were together, as its map marks it. What is not known cannot be
/// weighed; [`Change::is_nothing`] may be known all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Marked inodes; none when the map has a gap.
    pub inodes: Option<u64>,
    /// Bytes in the marked extents, and in new files; none when the map has a gap, or a process that crashed has left only
    /// the directories in which files were made.
    pub bytes: Option<u64>,
}

/// Whose changes stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// The secondary's are discarded.
    KeepPrimary,
    /// The primary's are discarded: the roles must change first.
    KeepSecondary,
    /// A person has to say it.
    Manual,
}

/// Applies `policy`. `primary` and `secondary` is what either has changed.
///
/// | policy | secondary: nothing | primary: nothing | both: something | it is not known of one |
/// |---|---|---|---|---|
/// | `keep-primary` | the primary's stay | the primary's stay | the primary's stay | the primary's stay |
/// | `discard-least-changes` | the primary's stay | the secondary's stay | more bytes stay; of as many, more inodes; equal: manual | manual |
/// | `discard-zero-changes` | the primary's stay | the secondary's stay | manual | manual |
/// | `manual` | manual | manual | manual | manual |
///
/// The first column that holds counts.
pub fn resolve(policy: Policy, primary: &Change, secondary: &Change) -> Resolution {
    match policy {
        Policy::KeepPrimary => return Resolution::KeepPrimary,
        Policy::Manual => return Resolution::Manual,
        Policy::DiscardLeastChanges | Policy::DiscardZeroChanges => {}
    }
    if secondary.is_nothing() == Some(true) {
        return Resolution::KeepPrimary;
    }
    if primary.is_nothing() == Some(true) {
        return Resolution::KeepSecondary;
    }
    let (Policy::DiscardLeastChanges, Some(ours), Some(theirs)) =
        (policy, primary.weight(), secondary.weight())
    else {
        return Resolution::Manual;
    };
    match ours.cmp(&theirs) {
        std::cmp::Ordering::Greater => Resolution::KeepPrimary,
        std::cmp::Ordering::Less => Resolution::KeepSecondary,
        std::cmp::Ordering::Equal => Resolution::Manual,
    }
}

impl Change {
    /// It is certain that nothing was changed.
    pub const NOTHING: Change = Change {
        inodes: Some(0),
        bytes: Some(0),
    };
    /// Nothing is known.
    pub const UNKNOWN: Change = Change {
        inodes: None,
        bytes: None,
    };

    /// Whether it is nothing, if that is known.
    pub fn is_nothing(&self) -> Option<bool> {
        match (self.inodes, self.bytes) {
            (Some(0), Some(0)) => Some(true),
            (Some(1..), _) | (_, Some(1..)) => Some(false),
            (None | Some(0), None) | (None, Some(0)) => None,
        }
    }

    /// Bytes and inodes, compared in this order: a rename marks inodes only.
    fn weight(&self) -> Option<(u64, u64)> {
        Some((self.bytes?, self.inodes?))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_nothing(), self.inodes, self.bytes) {
            (Some(true), ..) => out.write_str("nothing"),
            (_, Some(inodes), Some(bytes)) => write!(out, "{inodes} files and directories, {bytes} bytes"),
            (_, Some(inodes), None) => write!(out, "{inodes} files and directories or more"),
            (_, None, _) => out.write_str("an unknown amount"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(inodes: u64, bytes: u64) -> Change {
        Change {
            inodes: Some(inodes),
            bytes: Some(bytes),
        }
    }

    #[test]
    fn each_policy_weighs_the_two_sides_as_its_row_says() {
        use Resolution::{KeepPrimary, KeepSecondary, Manual};
        let nothing = change(0, 0);
        let few = change(3, 100);
        let many = change(2, 5000);
        let renames = change(9, 100);
        let part = Change {
            inodes: Some(1),
            bytes: None,
        };
        let unknown = Change::UNKNOWN;
        let rows = [
            // primary, secondary, keep-primary, least, zero
            (nothing, nothing, KeepPrimary, KeepPrimary, KeepPrimary),
            (few, nothing, KeepPrimary, KeepPrimary, KeepPrimary),
            (nothing, few, KeepPrimary, KeepSecondary, KeepSecondary),
            (many, few, KeepPrimary, KeepPrimary, Manual),
            (few, many, KeepPrimary, KeepSecondary, Manual),
            (renames, few, KeepPrimary, KeepPrimary, Manual),
            (few, renames, KeepPrimary, KeepSecondary, Manual),
            (few, few, KeepPrimary, Manual, Manual),
            (unknown, nothing, KeepPrimary, KeepPrimary, KeepPrimary),
            (nothing, unknown, KeepPrimary, KeepSecondary, KeepSecondary),
            (part, many, KeepPrimary, Manual, Manual),
            (many, part, KeepPrimary, Manual, Manual),
            (unknown, many, KeepPrimary, Manual, Manual),
            (unknown, unknown, KeepPrimary, Manual, Manual),
        ];
        for (primary, secondary, keep, least, zero) in rows {
            let told = |policy| resolve(policy, &primary, &secondary);
            let row = format!("{primary:?} {secondary:?}");
            assert_eq!(told(Policy::KeepPrimary), keep, "{row}");
            assert_eq!(told(Policy::DiscardLeastChanges), least, "{row}");
            assert_eq!(told(Policy::DiscardZeroChanges), zero, "{row}");
            assert_eq!(told(Policy::Manual), Manual, "{row}");
        }
    }

    #[test]
    fn a_policy_is_written_as_in_the_documentation() {
        assert_eq!(Policy::default(), Policy::DiscardZeroChanges);
        for (policy, text) in [
            (Policy::KeepPrimary, "\"keep-primary\""),
            (Policy::DiscardLeastChanges, "\"discard-least-changes\""),
            (Policy::DiscardZeroChanges, "\"discard-zero-changes\""),
            (Policy::Manual, "\"manual\""),
        ] {
            assert_eq!(serde_json::to_string(&policy).unwrap(), text);
        }
    }
}
