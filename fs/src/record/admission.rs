//! What a secondary says to the start of a session: what [`meet`] decides, in the words of the wire.

use super::decision::{CopyState, Meeting, meet};
use super::{Present, Record};
use crate::wire::message::{Rejection, Start};

impl Record {
    /// Whether a secondary with this record may begin a session as asked by a primary whose copy is `primary`.
    /// `foreign` names a directory that holds files and no mark of this module.
    ///
    /// # Errors
    /// [`Rejection::FullCopyNeeded`] when another start would be taken, a copy or a whole copy;
    /// [`Rejection::WouldOverwrite`] when nothing is without a person's word.
    pub fn admits(
        &self,
        present: &Present,
        foreign: Option<&str>,
        start: &Start,
        primary: &CopyState,
    ) -> Result<(), Rejection> {
        let meeting = meet(primary, &self.state(present));
        let needed = |why: String| Err(Rejection::FullCopyNeeded(why));
        match (start, meeting) {
            (Start::Resume { .. }, _) => Err(Rejection::UnknownSession),
            (
                Start::Copy {
                    overwrite: true,
                    tracked: false,
                    ..
                },
                _,
            )
            | (Start::Fresh { .. }, Meeting::Equal) => Ok(()),
            (Start::Copy { tracked: true, .. }, Meeting::Tracked) => Ok(()),
            (
                Start::Copy { tracked: false, .. },
                Meeting::Equal | Meeting::Tracked | Meeting::Whole { .. },
            ) => Ok(()),
            (Start::Fresh { .. }, Meeting::Tracked) => needed("they parted, and one of them went on".into()),
            (Start::Fresh { .. } | Start::Copy { .. }, Meeting::Whole { why }) => needed(why.to_string()),
            (Start::Copy { tracked: true, .. }, Meeting::Equal) => {
                needed("nothing is known of what differs".into())
            }
            (Start::Fresh { .. } | Start::Copy { .. }, Meeting::SplitBrain { .. }) => {
                Err(Rejection::WouldOverwrite(
                    "it has taken writes of its own, which the primary does not have".into(),
                ))
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
}
