//! The durable record of this node's copy of one module, and the rules that read it.
//!
//! One small JSON file in the state directory ([`file`]), which [`Keeper`] keeps equal to what is in memory. It is
//! written when roles, generations or standing change, never per operation.

mod file;
mod generation;
mod keeper;
#[cfg(test)]
mod tests;

pub use file::{RecordError, RecordFile};
pub use generation::BadGeneration;
pub(crate) use generation::random_bytes;
pub use keeper::Keeper;

use crate::control::status::Standing;
use crate::wire::message::{Generation, Rejection, Start};
use serde::{Deserialize, Serialize};

/// Version of the file. History: 1, the first.
const FORMAT: u32 = 1;
/// Why a full secondary is not made like an empty primary.
const EMPTY_PRIMARY: &str = "it holds files and the primary is empty; is the primary's volume mounted?";

/// What is durably known of this copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// The module that the state directory belongs to.
    pub module: String,
    /// The line of writes that this copy is on; none before the first session or the first write alone.
    pub generation: Option<Generation>,
    /// What is known of the copy.
    pub standing: Standing,
    /// A session's first operation may have been applied and no clean end has been recorded: whoever finds this
    /// set after a restart has crashed and may lack, or hold alone, the last operations.
    pub open: bool,
    /// This node has taken writes without its peer, on a generation of its own.
    pub peer_lacks_data: bool,
    /// The generation last shared with the peer, while this copy is on one of its own. A peer that still carries it
    /// may be overwritten unasked: this copy descends from it.
    #[serde(default)]
    pub base: Option<Generation>,
    /// Why `standing`, `open` or `peer_lacks_data` are as they are, for a person.
    pub note: Option<String>,
}
impl Record {
    /// The record of a copy about which nothing is known yet: nothing was ever written through Sidekick.
    pub fn new(module: &str) -> Self {
        Record {
            format: FORMAT,
            module: module.to_owned(),
            generation: None,
            standing: Standing::UpToDate,
            open: false,
            peer_lacks_data: false,
            base: None,
            note: None,
        }
    }

    /// This node goes on without its peer, on a new line of writes unless it is on one of its own already.
    pub fn part(&mut self, generation: Generation, note: String) {
        if !self.peer_lacks_data || self.generation.is_none() {
            self.base = self.generation.filter(|_| self.standing == Standing::UpToDate);
            self.generation = Some(generation);
            self.peer_lacks_data = true;
            self.note = Some(note);
        }
        self.standing = Standing::UpToDate;
    }

    /// Both copies are the same and on one new line of writes, as far as this node can know.
    pub fn join(&mut self, generation: Generation) {
        self.generation = Some(generation);
        self.base = None;
        self.standing = Standing::UpToDate;
        self.open = true;
        self.peer_lacks_data = false;
        self.note = None;
    }

    /// This copy is mixed until one with this generation has been copied to it completely.
    pub fn begin_copy(&mut self, generation: Generation) {
        self.generation = Some(generation);
        self.base = None;
        self.standing = Standing::Inconsistent;
        self.open = true;
        self.peer_lacks_data = false;
        self.note = Some("it is being brought to the primary's state".into());
    }

    /// Why this node must not become primary by itself, if so: its copy may be old or mixed, or the peer may
    /// have taken over while this one was away.
    pub fn bars_primary(&self) -> Option<String> {
        match self.standing {
            Standing::UpToDate => {}
            Standing::Outdated => return Some("its copy is older than the peer's".into()),
            Standing::Inconsistent => return Some("its copy is mixed: a copy run was interrupted".into()),
            Standing::Verify => return Some("its copy may have been changed unseen".into()),
        }
        // Whoever wrote alone last has the newest copy, crashed or not.
        if self.open && !self.peer_lacks_data {
            return Some("its last session did not end cleanly: the peer may hold newer data".into());
        }
        None
    }

    /// Whether a secondary with this record, whose directories are `empty` or not, may begin a session as asked.
    ///
    /// For a fresh start both copies must be provably equal: both empty, or on one generation and both cleanly
    /// ended. For a copy this one must be nothing that anybody could miss: `foreign` names a directory that holds
    /// files and no mark of this module.
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
