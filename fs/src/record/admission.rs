//! What a secondary says to the start of a session, as the present wire messages ask for it.

use super::Record;
use crate::control::status::Standing;
use crate::wire::message::{Generation, Rejection, Start};

/// Why a full secondary is not made like an empty primary.
const EMPTY_PRIMARY: &str = "it holds files and the primary is empty; is the primary's volume mounted?";

impl Record {
    /// Whether a secondary with this record, whose directories are `empty` or not, may begin a session as
    /// asked.
    ///
    /// For a fresh start both copies must be provably equal: both empty, or on one generation and both
    /// cleanly ended. For a copy this one must be nothing that anybody could miss: `foreign` names a
    /// directory that holds files and no mark of this module.
    pub fn admits(
        &self,
        empty: bool,
        foreign: Option<&str>,
        start: &Start,
        peer_empty: bool,
    ) -> Result<(), Rejection> {
        let (generation, clean) = match start {
            Start::Fresh { generation, clean } => (generation, clean),
            Start::Copy {
                generation,
                base,
                overwrite,
            } => {
                if *overwrite || (empty && !self.peer_lacks_data) {
                    return Ok(());
                }
                if peer_empty {
                    return Err(Rejection::WouldOverwrite(EMPTY_PRIMARY.into()));
                }
                return self.may_be_overwritten(foreign, *generation, *base);
            }
            Start::Resume { .. } => return Err(Rejection::UnknownSession),
        };
        if empty && peer_empty {
            return Ok(());
        }
        // Said at once if a copy would be refused, too: the primary goes on alone for one.
        let needed = |why: &str| {
            if !empty {
                self.may_be_overwritten(foreign, *generation, None)?;
            }
            Err(Rejection::FullCopyNeeded(why.to_owned()))
        };
        if empty != peer_empty {
            // Whatever the records say: a volume that is not mounted, perhaps.
            if peer_empty {
                return Err(Rejection::WouldOverwrite(EMPTY_PRIMARY.into()));
            }
            return needed("the secondary is empty, the primary is not");
        }
        if self.peer_lacks_data {
            return needed("this node, too, has taken writes alone");
        }
        if !clean {
            return needed("the primary's last session did not end cleanly, or it has taken writes alone");
        }
        if self.standing != Standing::UpToDate {
            return needed("the secondary's copy is not marked up-to-date");
        }
        if self.open {
            return needed("the secondary's last session did not end cleanly");
        }
        match self.generation {
            Some(ours) if ours == *generation => Ok(()),
            Some(_) => needed("they carry different generations"),
            None => needed("the secondary holds files that did not come through this module"),
        }
    }

    fn may_be_overwritten(
        &self,
        foreign: Option<&str>,
        generation: Generation,
        base: Option<Generation>,
    ) -> Result<(), Rejection> {
        let refused = |why: String| Err(Rejection::WouldOverwrite(why));
        if self.peer_lacks_data {
            return refused("it has taken writes of its own, which the primary does not have".into());
        }
        if let Some(dir) = foreign {
            return refused(format!(
                "{dir} holds files, and no mark that they belong to module {}",
                self.module
            ));
        }
        if self.standing == Standing::Inconsistent {
            // Mixed by a copy that was interrupted: nothing that anybody could miss.
            return Ok(());
        }
        match self.generation {
            Some(ours) if ours == generation || Some(ours) == base => Ok(()),
            Some(ours) => refused(format!(
                "its copy is on generation {ours}, from which the primary's does not descend"
            )),
            None => refused("it holds files that no record of this node speaks of".into()),
        }
    }
}
