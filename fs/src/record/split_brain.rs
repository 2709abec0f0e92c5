//! Both copies were changed apart from each other: which of the two sides' changes go. Pure.
//!
//! Whatever is discarded is put aside first, completely and durably; that is not decided here.

use serde::{Deserialize, Serialize};

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

/// How much one side has changed since the two were together, as its map marks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Marked inodes and names; none when the map has a gap.
    pub inodes: Option<u64>,
    /// Bytes in the marked extents; none when the map has a gap.
    pub bytes: Option<u64>,
}

/// Whose changes stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The secondary's are discarded.
    KeepPrimary,
    /// The primary's are discarded: the roles must change first.
    KeepSecondary,
    /// A person has to say it.
    Manual,
}

/// Applies `policy`. What is not known cannot be weighed: then a person decides, unless nothing needs
/// weighing.
///
/// | policy | of two known amounts | one unknown |
/// |---|---|---|
/// | `keep-primary` | the secondary's go | the secondary's go |
/// | `discard-least-changes` | fewer bytes go; of as many, fewer inodes; equal: manual | manual |
/// | `discard-zero-changes` | who has none loses none; both have some: manual | manual |
/// | `manual` | manual | manual |
///
/// Where a side has changed nothing, both weighing policies keep the other; where neither has, the primary's.
pub fn resolve(policy: Policy, primary: &Change, secondary: &Change) -> Resolution {
    match policy {
        Policy::KeepPrimary => return Resolution::KeepPrimary,
        Policy::Manual => return Resolution::Manual,
        Policy::DiscardLeastChanges | Policy::DiscardZeroChanges => {}
    }
    let (Some(ours), Some(theirs)) = (primary.weight(), secondary.weight()) else {
        return Resolution::Manual;
    };
    if theirs == NOTHING {
        return Resolution::KeepPrimary;
    }
    if ours == NOTHING {
        return Resolution::KeepSecondary;
    }
    if policy == Policy::DiscardZeroChanges {
        return Resolution::Manual;
    }
    match ours.cmp(&theirs) {
        std::cmp::Ordering::Greater => Resolution::KeepPrimary,
        std::cmp::Ordering::Less => Resolution::KeepSecondary,
        std::cmp::Ordering::Equal => Resolution::Manual,
    }
}

/// Bytes and inodes, compared in this order: a rename marks inodes only.
const NOTHING: (u64, u64) = (0, 0);

impl Change {
    /// It is certain that nothing was changed.
    pub const NOTHING: Change = Change {
        inodes: Some(0),
        bytes: Some(0),
    };
    /// Something was, or may have been; how much is not weighed.
    pub const SOMETHING: Change = Change {
        inodes: Some(1),
        bytes: Some(1),
    };

    fn weight(&self) -> Option<(u64, u64)> {
        Some((self.bytes?, self.inodes?))
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
        let unknown = Change {
            inodes: Some(1),
            bytes: None,
        };
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
            (unknown, nothing, KeepPrimary, Manual, Manual),
            (nothing, unknown, KeepPrimary, Manual, Manual),
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
