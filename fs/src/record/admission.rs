//! What a secondary says to the start of a session: what [`meet`] decides, in the words of the wire.

use super::decision::{CopyState, Meeting, meet};
use super::split_brain::{Change, Policy, Resolution, resolve};
use super::{Present, Record};
use crate::control::status::Standing;
use crate::wire::message::{Rejection, Start};
use std::fmt;

/// What the secondary loses by a session that it admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loses {
    /// Nothing that the primary does not have.
    Nothing,
    /// Something, or it is not known: it is put aside first.
    Changes,
}

/// Both nodes have taken writes apart from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// What the primary has changed.
    pub primary: Change,
    /// What the secondary has changed.
    pub secondary: Change,
    /// Whose changes stay.
    pub resolution: Resolution,
}

impl fmt::Display for Split {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "split brain: apart from each other the primary has changed {}, and the secondary {}",
            self.primary, self.secondary
        )
    }
}

impl Record {
    /// Whether a secondary with this record may begin a session as asked by a primary whose copy is `primary`.
    /// `foreign` names a directory that holds files and no mark of this module; `policy` decides a split brain.
    ///
    /// # Errors
    /// [`Rejection::FullCopyNeeded`] when another start would be taken, a copy or a whole copy;
    /// [`Rejection::WouldOverwrite`] and [`Rejection::SplitBrain`] when nothing is without a person's word.
    pub fn admits(
        &self,
        present: &Present,
        foreign: Option<&str>,
        start: &Start,
        primary: &CopyState,
        policy: Policy,
    ) -> Result<Loses, Rejection> {
        let ours = self.state(present);
        let meeting = meet(primary, &ours);
        let needed = |why: String| Err(Rejection::FullCopyNeeded(why));
        match (start, meeting) {
            (Start::Resume { .. }, _) => Err(Rejection::UnknownSession),
            (
                Start::Copy {
                    overwrite: true,
                    tracked: false,
                    ..
                },
                meeting,
            ) => Ok(self.loses(&ours, primary, meeting)),
            (Start::Fresh { .. }, Meeting::Equal)
            | (Start::Copy { tracked: true, .. }, Meeting::Tracked)
            | (
                Start::Copy { tracked: false, .. },
                Meeting::Equal | Meeting::Tracked | Meeting::Whole { .. },
            ) => Ok(Loses::Nothing),
            (Start::Fresh { .. }, Meeting::Tracked) => needed("they parted, and one of them went on".into()),
            (Start::Fresh { .. } | Start::Copy { .. }, Meeting::Whole { why }) => needed(why.to_string()),
            (Start::Copy { tracked: true, .. }, Meeting::Equal) => {
                needed("nothing is known of what differs".into())
            }
            (Start::Fresh { .. } | Start::Copy { .. }, Meeting::SplitBrain { .. }) => {
                let split = self.weigh(&ours, primary, policy);
                match (split.resolution, start) {
                    (Resolution::KeepPrimary, Start::Copy { tracked: false, .. }) => {
                        Ok(self.loses(&ours, primary, meeting))
                    }
                    (Resolution::KeepPrimary, _) => {
                        needed("both have taken writes, so that everything is compared".into())
                    }
                    (Resolution::KeepSecondary, _) => Err(Rejection::SplitBrain(format!(
                        "{split}. Its changes are the ones to keep: stop this primary and become-secondary here, then \
                         become-primary and connect there"
                    ))),
                    (Resolution::Manual, _) => Err(Rejection::SplitBrain(format!(
                        "{split}. Either discard its changes, which are put aside in an archive first: connect \
                         --overwrite here; or discard those of this primary: stop it and become-secondary here, then \
                         become-primary and connect --overwrite there"
                    ))),
                }
            }
            (Start::Fresh { .. } | Start::Copy { .. }, Meeting::PrimaryIsOlder { why }) => {
                Err(Rejection::WouldOverwrite(why.to_string()))
            }
            (Start::Fresh { .. } | Start::Copy { .. }, Meeting::Refused { why }) => {
                let mut text = why.to_string();
                if let Some(dir) = foreign {
                    text = format!("{text} ({dir}, module {})", self.module);
                }
                Err(Rejection::WouldOverwrite(text))
            }
        }
    }

    /// The split brain that a primary's call shows, if it does.
    pub fn split(&self, present: &Present, primary: &CopyState, policy: Policy) -> Option<Split> {
        let ours = self.state(present);
        match meet(primary, &ours) {
            Meeting::SplitBrain { .. } => Some(self.weigh(&ours, primary, policy)),
            Meeting::Equal
            | Meeting::Tracked
            | Meeting::Whole { .. }
            | Meeting::PrimaryIsOlder { .. }
            | Meeting::Refused { .. } => None,
        }
    }

    /// What a side has changed is known only where both parted from one line with all of it: a copy that had lost what was
    /// answered on that line would not be told from one that was never changed.
    fn weigh(&self, ours: &CopyState, primary: &CopyState, policy: Policy) -> Split {
        let is_known = self.tracked && primary.tracked && primary.base.is_some() && self.base == primary.base;
        let change = |one: &CopyState| match is_known && one.wrote_alone {
            true => one.changed,
            false => Change::UNKNOWN,
        };
        let (theirs, ours) = (change(primary), change(ours));
        Split {
            primary: theirs,
            secondary: ours,
            resolution: resolve(policy, &theirs, &ours),
        }
    }

    fn loses(&self, ours: &CopyState, primary: &CopyState, meeting: Meeting) -> Loses {
        match meeting {
            Meeting::Equal | Meeting::Tracked | Meeting::Whole { .. } => Loses::Nothing,
            Meeting::SplitBrain { .. } => {
                match self.weigh(ours, primary, Policy::Manual).secondary.is_nothing() {
                    Some(true) => Loses::Nothing,
                    Some(false) | None => Loses::Changes,
                }
            }
            // What a copy has left mixed was put aside before that began.
            Meeting::PrimaryIsOlder { .. } | Meeting::Refused { .. }
                if ours.empty || self.standing == Standing::Inconsistent =>
            {
                Loses::Nothing
            }
            Meeting::PrimaryIsOlder { .. } | Meeting::Refused { .. } => Loses::Changes,
        }
    }
}
