//! The durable record of this node's copy of one module, and the rules that read it.
//!
//! It lies in the state directory ([`file`]) and, a second time, on every replicated directory itself
//! ([`volume`]); [`Keeper`] keeps all of them equal to what is in memory, and [`copies`] says what counts
//! when they are not. It is written when roles, generations or standing change, never per operation. What two
//! records say to each other is decided in [`decision`], and in [`split_brain`] where both copies were
//! changed.

mod admission;
mod boot;
pub(crate) mod copies;
pub mod decision;
mod file;
mod generation;
mod history;
mod keeper;
pub mod split_brain;
mod volume;

#[cfg(test)]
mod tests;

pub use admission::{Loses, Split};
pub use boot::BootId;
pub use file::{BadRecord, RecordError, RecordFile};
pub use generation::BadGeneration;
pub(crate) use generation::random_bytes;
pub use history::{HISTORY_MAX, History, TooLong};
pub use keeper::Keeper;
pub use volume::BadVolumeCopy;

use crate::config::Durability;
use crate::control::status::Standing;
use crate::wire::message::Generation;
use decision::CopyState;
use serde::{Deserialize, Serialize};
use split_brain::Change;

/// Version of the record. History: 1, the first, without what is said by `FormatOne` in `file.rs` to be
/// missing; 2.
const FORMAT: u32 = 2;

/// Checkpoints that a secondary has counted and its primary has not yet, at most: the periodic one, of which there is no
/// other before it is noted, and that of a clean end.
const UNCOUNTED_MAX: u64 = 2;

/// What is durably known of this copy. The order of the fields is that of the bytes on the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// Goes up by one with every write; of several copies the one with the highest counts.
    revision: u64,
    /// The module that the state directory belongs to.
    pub module: String,
    /// The line of writes that this copy is on; none before the first session or the first write alone.
    pub generation: Option<Generation>,
    /// The generation last shared with the peer, while this copy is on one of its own: a peer that still
    /// carries it may be overwritten unasked, as this copy descends from it. Of a copy that is inconsistent
    /// by a tracked copy, the generation that it had before.
    pub base: Option<Generation>,
    /// What this node was when it last took writes.
    pub role: Role,
    /// What is known of the copy.
    pub standing: Standing,
    /// Of an inconsistent copy, what was interrupted.
    pub copy: Option<CopyKind>,
    /// A session's first operation may have been applied and no clean end has been recorded: whoever finds
    /// this set after a restart has crashed and may lack, or hold alone, the last operations.
    pub open: bool,
    /// This node has taken writes without its peer, on a generation of its own.
    pub peer_lacks_data: bool,
    /// The last session ended cleanly, and before this node left it the peer had noted that it does not begin without
    /// this one: nobody can have a newer copy.
    pub newest: bool,
    /// The last session ended cleanly for this node only: the peer went on, perhaps alone.
    pub peer_stayed: bool,
    /// The map on disk names, without a gap, what has changed here since `base`.
    pub tracked: bool,
    /// How many checkpoints this copy has been through; common to both nodes, and never lower than it was.
    pub checkpoint: u64,
    /// The run of the machine in which the last session, or the writes alone, began.
    pub boot_id: Option<BootId>,
    /// What an answered sync meant then.
    pub durability: Durability,
    /// The generations before the present one.
    pub history: History,
    /// Why `standing`, `open` or `peer_lacks_data` are as they are, for a person.
    pub note: Option<String>,
}

/// What a node was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Neither, or it is not known.
    #[default]
    None,
    /// It took the application's writes.
    Primary,
    /// It held the copy.
    Secondary,
}

/// How much a copy brings over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyKind {
    /// Everything is compared.
    Whole,
    /// What the map names.
    Tracked,
}

/// How a session ended cleanly for this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer has noted before that it leaves the next beginning to this node.
    Last,
    /// This node leaves the next beginning to the peer.
    HandedOver,
    /// The peer goes on without this node.
    PeerStays,
}

/// Where and how a session, or writing alone, begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// The present run of the machine.
    pub boot_id: Option<BootId>,
    /// The weakest of the module's directories.
    pub durability: Durability,
}

/// What a node knows of its copy beside the record, when it meets the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    /// The present run of the machine.
    pub boot_id: Option<BootId>,
    /// A session of this process that has not ended cleanly is still in memory.
    pub remembers: bool,
    /// The map, in memory or loaded, is complete; see [`CopyState::tracked`].
    pub map_is_complete: bool,
    /// The highest checkpoint count that is remembered of the peer, 0 if none is.
    pub peer_checkpoint: u64,
    /// The directories hold nothing.
    pub empty: bool,
    /// A directory holds files and no mark of the module.
    pub foreign: bool,
    /// What the map says that was changed without the peer. Counts only of a node that went on alone.
    pub changed: Change,
}

impl Record {
    /// The record of a copy about which nothing is known yet: nothing was ever written through Sidekick.
    pub fn new(module: &str) -> Self {
        Record {
            format: FORMAT,
            revision: 0,
            module: module.to_owned(),
            generation: None,
            base: None,
            role: Role::None,
            standing: Standing::UpToDate,
            copy: None,
            open: false,
            peer_lacks_data: false,
            newest: false,
            peer_stayed: false,
            tracked: false,
            checkpoint: 0,
            boot_id: None,
            durability: Durability::Memory,
            history: History::default(),
            note: None,
        }
    }

    /// How often the record was written.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A session between two equal copies begins: durable before its first operation.
    pub fn open_session(&mut self, generation: Generation, role: Role, here: Here) {
        self.enter(generation);
        self.begin(role, here);
        self.base = None;
        self.standing = Standing::UpToDate;
        self.copy = None;
        self.open = true;
        self.peer_lacks_data = false;
        self.tracked = false;
        self.note = None;
    }

    /// This node goes on without its peer, on a new line of writes unless it is on one of its own already.
    ///
    /// Whoever has made the map durable sets [`Record::tracked`] in the same write; after a first parting it
    /// is false until then. What was not up-to-date has a gap in its map, and is up-to-date now because
    /// somebody said so.
    pub fn part(&mut self, generation: Generation, note: String, here: Here) {
        let was_up_to_date = self.standing == Standing::UpToDate;
        if !self.peer_lacks_data || self.generation.is_none() {
            self.base = self.generation.filter(|_| was_up_to_date);
            self.enter(generation);
            self.peer_lacks_data = true;
            self.tracked = false;
            self.note = Some(note);
        }
        self.tracked &= was_up_to_date;
        self.begin(Role::Primary, here);
        self.standing = Standing::UpToDate;
        self.copy = None;
    }

    /// Both copies are the same and on one new line of writes, as far as this node can know. At the end of a
    /// copy the primary writes it first, then the secondary: between the two it is the primary that everybody
    /// can copy from.
    pub fn join(&mut self, generation: Generation, role: Role, here: Here) {
        self.open_session(generation, role, here);
    }

    /// This copy is mixed until one with this generation has been copied to it completely. What it was before
    /// is of no account any more, unless the copy brings over only what has changed since.
    pub fn begin_copy(&mut self, generation: Generation, kind: CopyKind, here: Here) {
        self.base = match kind {
            CopyKind::Whole => None,
            CopyKind::Tracked if self.peer_lacks_data || self.standing == Standing::Inconsistent => self.base,
            CopyKind::Tracked => self.generation,
        };
        match kind {
            CopyKind::Whole => {
                self.history = History::default();
                self.generation = Some(generation);
            }
            CopyKind::Tracked => self.enter(generation),
        }
        self.begin(Role::Secondary, here);
        self.standing = Standing::Inconsistent;
        self.copy = Some(kind);
        self.open = true;
        self.peer_lacks_data = false;
        self.tracked = false;
        self.note = Some("it is being brought to the primary's state".into());
    }

    /// The session has ended cleanly; everything is on disk. The primary writes it first, then the secondary, which
    /// is the one that may begin alone. So never may both.
    pub fn end(&mut self, end: End) {
        self.open = false;
        self.newest = end == End::Last;
        self.peer_stayed = end == End::PeerStays;
    }

    /// What this node wrote alone is on disk, and it has stopped.
    pub fn end_alone(&mut self) {
        self.open = false;
    }

    /// The peer goes on alone, as `generation`.
    pub fn outdate(&mut self, generation: Generation, reason: &str) {
        if self.standing != Standing::Inconsistent {
            self.standing = Standing::Outdated;
        }
        self.newest = false;
        self.note = Some(format!("the primary goes on alone as {generation}: {reason}"));
    }

    /// The copy may be another one than the record speaks of: all of it has to be compared. A mixed copy
    /// stays mixed.
    pub fn distrust(&mut self, note: String) {
        if self.standing == Standing::Inconsistent {
            self.copy = Some(CopyKind::Whole);
        } else {
            self.standing = Standing::Verify;
        }
        self.tracked = false;
        self.newest = false;
        self.note = Some(note);
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
        if self.peer_lacks_data {
            return None;
        }
        // That the two were connected says nothing of what the peer did after this node was gone.
        if self.open {
            return Some("its last session did not end cleanly: the peer may hold newer data".into());
        }
        if self.newest {
            return None;
        }
        if self.peer_stayed {
            return Some("the peer went on when this node left their session: it may hold newer data".into());
        }
        if self.handed_over() {
            return Some(
                "it left the next beginning to the peer when their session ended: the peer may have begun alone".into(),
            );
        }
        None
    }

    /// The peer alone may begin without this node; beside the peer this one may as well.
    pub fn handed_over(&self) -> bool {
        let ended_cleanly = self.generation.is_some() && !self.open && !self.peer_lacks_data;
        self.standing == Standing::UpToDate && ended_cleanly && !self.newest && !self.peer_stayed
    }

    /// How many checkpoints the peer has counted at least, going by this record alone: a peer with fewer was brought back
    /// from an older state.
    pub fn counted_by_peer(&self) -> u64 {
        match self.role {
            // It counts a checkpoint after the secondary has.
            Role::Primary => self.checkpoint,
            Role::Secondary => self.checkpoint.saturating_sub(UNCOUNTED_MAX),
            Role::None => 0,
        }
    }

    /// What this node tells the peer of its copy.
    pub fn state(&self, present: &Present) -> CopyState {
        CopyState {
            generation: self.generation,
            base: self.base,
            standing: self.standing,
            copy: self.copy,
            open: self.open,
            wrote_alone: self.peer_lacks_data,
            tracked: present.map_is_complete && (self.tracked || !self.peer_lacks_data),
            checkpoint: self.checkpoint,
            peer_checkpoint: present.peer_checkpoint,
            last_role: self.role,
            rebooted: self.boot_id.is_none() || self.boot_id != present.boot_id,
            remembers: present.remembers,
            durability: self.durability,
            history: self.history.clone(),
            empty: present.empty,
            foreign: present.foreign,
            changed: if self.peer_lacks_data {
                present.changed
            } else {
                Change::UNKNOWN
            },
        }
    }

    fn enter(&mut self, generation: Generation) {
        if let Some(former) = self.generation.replace(generation)
            && former != generation
        {
            self.history.push(former);
        }
    }

    fn begin(&mut self, role: Role, here: Here) {
        self.role = role;
        self.boot_id = here.boot_id;
        self.durability = here.durability;
        self.newest = false;
        self.peer_stayed = false;
    }
}
