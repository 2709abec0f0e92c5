//! Two nodes meet: whether the one that is to be the secondary may be joined to the one that is to be the
//! primary, and how. Pure: it decides by what the two records say.
//!
//! A person, or the brain, has chosen the primary. What is decided here never makes a newer copy like an
//! older one: where the secondary's is the newer, or may be, the answer is to choose the other way round.

use super::split_brain::Change;
use super::{CopyKind, History, Role};
use crate::config::Durability;
use crate::control::status::Standing;
use crate::wire::message::Generation;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a node tells about its copy when it meets the other. On the wire it is bounded: the only list is a
/// history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyState {
    /// The line of writes that the copy is on; none before the first session and the first write alone.
    pub generation: Option<Generation>,
    /// The generation last shared with the peer, of a copy that is on a line of its own, or that was being
    /// brought to the peer's state by a tracked copy.
    pub base: Option<Generation>,
    /// What the node knows of its copy.
    pub standing: Standing,
    /// Which kind of copy was interrupted, of an inconsistent one.
    pub copy: Option<CopyKind>,
    /// Its last session has not ended cleanly.
    pub open: bool,
    /// It has taken writes without its peer, on a generation of its own (`peer_lacks_data` in the record).
    pub wrote_alone: bool,
    /// Its map, in memory or on disk, names everything in which a peer of generation `base` (of a session
    /// that it remembers: of the same generation) may differ from it.
    pub tracked: bool,
    /// How many checkpoints its copy has been through. The count is common to both nodes and never goes back.
    pub checkpoint: u64,
    /// The highest count that it remembers of its peer; 0 when it remembers none.
    pub peer_checkpoint: u64,
    /// What it was last.
    pub last_role: Role,
    /// The machine was restarted since the last session, or the writes alone, began: what was not on disk is
    /// lost.
    pub rebooted: bool,
    /// The same process still has the session in memory: nothing that it answered is lost.
    pub remembers: bool,
    /// What an answered sync means on it; the weakest of its directories.
    pub durability: Durability,
    /// The generations that it was on before.
    pub history: History,
    /// Its directories hold nothing.
    pub empty: bool,
    /// One of its directories holds files and no mark of this module.
    pub foreign: bool,
    /// What it has changed without its peer.
    pub changed: Change,
}

/// What is to be done with a pair of copies. The variants that name no reason are free of doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// Both copies are the same: a session may begin at once.
    Equal,
    /// The secondary gets what the primary's map names, united with its own map as far as it still has one.
    Tracked,
    /// The secondary is compared and copied as a whole.
    Whole {
        /// Why a map does not do.
        why: Whole,
    },
    /// The secondary has taken writes that the primary lacks, and the primary others, as far as can be known.
    /// Nothing is done before somebody says which of them go, see [`super::split_brain`].
    SplitBrain {
        /// The line that both come from.
        base: Option<Generation>,
        /// Both maps are without a gap from there on: together they name everything in which the copies
        /// differ.
        tracked: bool,
    },
    /// The secondary's copy is the newer one, or the only one that can be trusted: make that node the
    /// primary.
    PrimaryIsOlder {
        /// How that is known.
        why: Older,
    },
    /// Neither may be made like the other.
    Refused {
        /// Why.
        why: Refused,
    },
}

/// Why a copy has to be a whole one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Whole {
    /// Nothing lies in its directories.
    #[error("the secondary is empty")]
    SecondaryEmpty,
    /// What it holds is mixed, and not as a tracked copy from this very line leaves it.
    #[error("the secondary's copy is mixed: another copy run was interrupted")]
    SecondaryMixed,
    /// Its files may have been changed past the mount.
    #[error("the secondary's copy may have been changed unseen")]
    SecondaryUnsure,
    /// Its checkpoint count, or its generation, was reached long ago.
    #[error(
        "the secondary's copy is older than when the two were last together; was it restored from a backup?"
    )]
    SecondaryRestored,
    /// It carries the generation of a primary that was alone.
    #[error("the secondary's copy carries the primary's own generation, which it never had from it")]
    SecondaryCloned,
    /// The primary's map is gone, was never made, or cannot be read.
    #[error("the primary has no unbroken map of what has changed since the two were together")]
    NotTracked,
    /// A person has said that whatever the secondary holds may be lost.
    #[error("it was ordered, whatever the secondary holds")]
    Ordered,
}

/// Why the secondary should be the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Older {
    /// The primary cannot be a source, and the secondary can.
    #[error("the primary's copy is {} and the secondary's is not", Shown(*.0))]
    PrimaryUnfit(Standing),
    /// It went on without the primary.
    #[error("the secondary has taken writes since the two were together, the primary has not")]
    SecondaryWroteAlone,
    /// It has been on the primary's generation before.
    #[error("the secondary's copy is on a later generation than the primary's")]
    SecondaryLater,
    /// The primary's checkpoint count is lower than it was.
    #[error(
        "the primary's copy is older than when the two were last together; was it restored from a backup?"
    )]
    PrimaryRestored,
    /// One or both have crashed, and the secondary's copy holds all that was answered.
    #[error("the last session did not end cleanly, and the secondary's copy is the one to trust")]
    PrimaryCrashed,
}

/// Why two copies are not joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Neither can be a source.
    #[error("the primary's copy is {}, so that nothing may be made like it", Shown(*.0))]
    PrimaryUnfit(Standing),
    /// A full secondary is not made like an empty primary.
    #[error("the secondary holds files and the primary is empty; is the primary's volume mounted?")]
    PrimaryEmpty,
    /// The secondary's files may be somebody else's.
    #[error("the secondary's directories hold files, and no mark that they belong to this module")]
    Foreign,
    /// The secondary's files came from nowhere.
    #[error("the secondary holds files that no record of it speaks of")]
    NoRecord,
    /// Lines of writes without a common origin, or one that the primary has not been on.
    #[error("the secondary's copy is on a generation from which the primary's does not descend")]
    Unrelated,
}

struct Shown(Standing);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Standing::UpToDate => "up-to-date",
            Standing::Outdated => "outdated",
            Standing::Inconsistent => "inconsistent",
            Standing::Verify => "to be verified",
        })
    }
}

/// How the lines of writes of two copies lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// One and the same.
    Same,
    /// The primary left the secondary's line when they parted.
    SecondaryAtBase,
    /// The primary was on the secondary's line earlier still.
    SecondaryLongBehind,
    /// The secondary left the primary's line when they parted.
    PrimaryAtBase,
    /// The secondary was on the primary's line earlier still.
    PrimaryLongBehind,
    /// Both have left a line that they shared.
    Forked(Generation),
    /// No common line is known.
    Unrelated,
    /// The secondary has never been on any.
    SecondaryNone,
    /// The primary has never been on any, the secondary has.
    PrimaryNone,
}

/// Decides how `secondary` is joined to `primary`. The first row that fits counts; "alone" is `wrote_alone`,
/// "behind" and "ahead" speak of the secondary's generation.
///
/// | # | primary | secondary | meeting |
/// |---|---|---|---|
/// | 1 | not up-to-date, not alone | same generation or ahead, *fit* | `PrimaryIsOlder` |
/// | 2 | not up-to-date | any | `Refused` |
/// | 3 | empty | empty, not alone | `Equal` |
/// | 4 | empty | any | `Refused` |
/// | 5 | any | alone, no common line | `Refused` |
/// | 6 | not alone, on a line that the secondary has left | alone, not inconsistent | `PrimaryIsOlder` |
/// | 7 | any | alone | `SplitBrain` |
/// | 8 | any | empty | `Whole` |
/// | 9 | any | foreign | `Refused` |
/// | 10 | fewer checkpoints than the secondary knows of, common line | up-to-date | `PrimaryIsOlder` |
/// | 11 | alone, tracked | inconsistent by a *tracked copy of this line* | `Tracked` |
/// | 12 | any | inconsistent | `Whole` |
/// | 13 | any | no generation | `Refused` |
/// | 14 | no generation, or no common line, or another branch | not alone | `Refused` |
/// | 15 | on a line that the secondary has left | ahead, not alone | `PrimaryIsOlder` |
/// | 16 | any | verify | `Whole` |
/// | 17 | any | fewer checkpoints than the primary knows of | `Whole` |
/// | 18 | any | behind the primary's base, if it has one | `Whole` |
/// | 19 | tracked | on the primary's base | `Tracked` |
/// | 20 | not tracked | on the primary's base | `Whole` |
/// | 21 | alone | the same generation | `Whole` |
/// | 22 | clean | same generation, clean, up-to-date, as many checkpoints | `Equal` |
/// | 23 | clean, fewer checkpoints | same generation, clean, up-to-date | `PrimaryIsOlder` |
/// | 24 | clean | same generation, clean, up-to-date, fewer checkpoints | `Whole` |
/// | 25 | the source, tracked, remembers the session or ended it cleanly | same generation | `Tracked` |
/// | 26 | the source | same generation | `Whole` |
/// | 27 | not the source | same generation | `PrimaryIsOlder` |
///
/// *Fit*: up-to-date, not empty, not foreign, and not fewer checkpoints than the primary knows of. *A tracked
/// copy of this line*: begun from the primary's generation and base, with as many checkpoints as the primary
/// knows of.
///
/// The source of two copies of one generation, one of which has crashed: the node that still remembers the
/// session (both: the one that was primary last), else the only one that ended cleanly, else the only one
/// whose machine was not restarted, else the one that was primary last (both or neither: the one chosen). A
/// secondary whose machine was restarted before a clean end, and that answered syncs from memory, is never
/// the source over the last primary.
///
/// An "outdated" secondary on the primary's own generation was told of a parting that never came to be: it
/// counts as one that has crashed.
pub fn meet(primary: &CopyState, secondary: &CopyState) -> Meeting {
    let lines = lines(primary, secondary);
    if let Some(meeting) = unfit_primary(primary, secondary, lines)
        .or_else(|| empty_primary(primary, secondary))
        .or_else(|| secondary_alone(primary, secondary, lines))
    {
        return meeting;
    }
    if secondary.empty {
        return Meeting::whole(Whole::SecondaryEmpty);
    }
    if secondary.foreign {
        return Meeting::refused(Refused::Foreign);
    }
    // An inconsistent secondary's own count says nothing of the primary: it may be of the copy that was
    // interrupted.
    if secondary.standing == Standing::UpToDate
        && primary.checkpoint < secondary.peer_checkpoint
        && lines.are_related()
    {
        return Meeting::older(Older::PrimaryRestored);
    }
    if secondary.standing == Standing::Inconsistent {
        return mixed(primary, secondary);
    }
    match lines {
        Lines::SecondaryNone => return Meeting::refused(Refused::NoRecord),
        Lines::PrimaryNone | Lines::Unrelated | Lines::Forked(_) => {
            return Meeting::refused(Refused::Unrelated);
        }
        Lines::PrimaryAtBase | Lines::PrimaryLongBehind => return Meeting::older(Older::SecondaryLater),
        Lines::Same | Lines::SecondaryAtBase | Lines::SecondaryLongBehind => {}
    }
    if secondary.standing == Standing::Verify {
        return Meeting::whole(Whole::SecondaryUnsure);
    }
    if was_restored(primary, secondary) || lines == Lines::SecondaryLongBehind {
        return Meeting::whole(Whole::SecondaryRestored);
    }
    if lines == Lines::SecondaryAtBase {
        return Meeting::by_map(primary.tracked);
    }
    if primary.wrote_alone {
        return Meeting::whole(Whole::SecondaryCloned);
    }
    same_generation(primary, secondary)
}

/// Rows 1 and 2. What may be old, mixed or changed unseen is never copied anywhere.
fn unfit_primary(primary: &CopyState, secondary: &CopyState, lines: Lines) -> Option<Meeting> {
    if primary.standing == Standing::UpToDate {
        return None;
    }
    // A primary that is not up-to-date and has writes of its own is not just older: neither copy holds the
    // other.
    let secondary_is_better = !primary.wrote_alone
        && matches!(
            lines,
            Lines::Same | Lines::PrimaryAtBase | Lines::PrimaryLongBehind
        )
        && secondary.standing == Standing::UpToDate
        && !secondary.empty
        && !secondary.foreign
        && !was_restored(primary, secondary);
    Some(if secondary_is_better {
        Meeting::older(Older::PrimaryUnfit(primary.standing))
    } else {
        Meeting::refused(Refused::PrimaryUnfit(primary.standing))
    })
}

/// Rows 3 and 4: whatever the records say, a volume may not be mounted.
fn empty_primary(primary: &CopyState, secondary: &CopyState) -> Option<Meeting> {
    match (primary.empty, secondary.empty && !secondary.wrote_alone) {
        (false, _) => None,
        (true, true) => Some(Meeting::Equal),
        (true, false) => Some(Meeting::refused(Refused::PrimaryEmpty)),
    }
}

/// Rows 5 to 7. Nothing of it is overwritten unasked, be it mixed, old or empty by now.
fn secondary_alone(primary: &CopyState, secondary: &CopyState, lines: Lines) -> Option<Meeting> {
    if !secondary.wrote_alone {
        return None;
    }
    let base = match lines {
        Lines::SecondaryNone | Lines::PrimaryNone | Lines::Unrelated => {
            return Some(Meeting::refused(Refused::Unrelated));
        }
        Lines::PrimaryAtBase | Lines::PrimaryLongBehind
            if !primary.wrote_alone && secondary.standing != Standing::Inconsistent =>
        {
            return Some(Meeting::older(Older::SecondaryWroteAlone));
        }
        Lines::PrimaryAtBase | Lines::PrimaryLongBehind | Lines::Same => primary.generation,
        Lines::SecondaryAtBase | Lines::SecondaryLongBehind => secondary.generation,
        Lines::Forked(base) => Some(base),
    };
    // Each map names what changed since its own base: together they do only from one and the same.
    let tracked = base.is_some()
        && (primary.base, secondary.base) == (base, base)
        && primary.tracked
        && secondary.tracked
        && secondary.standing == Standing::UpToDate
        && !was_restored(primary, secondary)
        && !was_restored(secondary, primary);
    Some(Meeting::SplitBrain { base, tracked })
}

/// Rows 11 and 12: nobody can miss what an interrupted copy has left.
fn mixed(primary: &CopyState, secondary: &CopyState) -> Meeting {
    let of_this_copy = secondary.copy == Some(CopyKind::Tracked)
        && primary.wrote_alone
        && primary.generation.is_some()
        && secondary.generation == primary.generation
        && secondary.base.is_some()
        && secondary.base == primary.base;
    if !of_this_copy {
        return Meeting::whole(Whole::SecondaryMixed);
    }
    if was_restored(primary, secondary) {
        return Meeting::whole(Whole::SecondaryRestored);
    }
    Meeting::by_map(primary.tracked)
}

/// Rows 22 to 27: neither has gone on alone since they were together.
fn same_generation(primary: &CopyState, secondary: &CopyState) -> Meeting {
    let is_clean = |copy: &CopyState| !copy.open && copy.standing == Standing::UpToDate;
    if is_clean(primary) && is_clean(secondary) {
        // The last checkpoint before a clean end is common to both. A generation may see many clean ends: a
        // copy that was restored to an earlier one of them says nothing else that would give it away.
        return match primary.checkpoint.cmp(&secondary.checkpoint) {
            std::cmp::Ordering::Equal => Meeting::Equal,
            std::cmp::Ordering::Less => Meeting::older(Older::PrimaryRestored),
            std::cmp::Ordering::Greater => Meeting::whole(Whole::SecondaryRestored),
        };
    }
    if is_source(primary, secondary) {
        // The map of a session is in memory; one on disk is from before it began.
        Meeting::by_map(primary.tracked && (primary.remembers || !primary.open))
    } else {
        Meeting::older(Older::PrimaryCrashed)
    }
}

/// Whether the one that was chosen as primary is the one to copy from, after a crash within one generation.
fn is_source(primary: &CopyState, secondary: &CopyState) -> bool {
    if lost_answers(secondary) && primary.last_role == Role::Primary {
        return true;
    }
    if lost_answers(primary) && secondary.last_role == Role::Primary {
        return false;
    }
    // Told of a parting, it stopped taking part, whatever its record says of the end.
    let open = |copy: &CopyState| copy.open || copy.standing == Standing::Outdated;
    let only_one = |is_better: fn(&CopyState) -> bool| match (is_better(primary), is_better(secondary)) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        (true, true) | (false, false) => None,
    };
    if primary.remembers || secondary.remembers {
        return only_one(|copy| copy.remembers).unwrap_or_else(|| was_primary(primary, secondary));
    }
    match (open(primary), open(secondary)) {
        (false, true) => return true,
        (true, false) => return false,
        (true, true) | (false, false) => {}
    }
    only_one(|copy| !copy.rebooted).unwrap_or_else(|| was_primary(primary, secondary))
}

/// Answered syncs of it may be gone: they were in its memory only.
fn lost_answers(copy: &CopyState) -> bool {
    copy.open
        && copy.rebooted
        && !copy.remembers
        && copy.durability == Durability::Memory
        && copy.last_role != Role::Primary
}

/// In a swap both may be primaries for a moment; nothing was under way then, so that either will do.
fn was_primary(primary: &CopyState, secondary: &CopyState) -> bool {
    primary.last_role == Role::Primary || secondary.last_role != Role::Primary
}

/// `knower` remembers a later checkpoint of `copy` than that says itself.
fn was_restored(knower: &CopyState, copy: &CopyState) -> bool {
    copy.checkpoint < knower.peer_checkpoint
}

fn lines(primary: &CopyState, secondary: &CopyState) -> Lines {
    let Some(theirs) = secondary.generation else {
        return Lines::SecondaryNone;
    };
    let Some(ours) = primary.generation else {
        return Lines::PrimaryNone;
    };
    if ours == theirs {
        Lines::Same
    } else if primary.base == Some(theirs) {
        Lines::SecondaryAtBase
    } else if secondary.base == Some(ours) {
        Lines::PrimaryAtBase
    } else if primary.history.contains(theirs) {
        Lines::SecondaryLongBehind
    } else if secondary.history.contains(ours) {
        Lines::PrimaryLongBehind
    } else {
        let mut left = primary.base.into_iter().chain(primary.history.iter());
        let common = left.find(|line| secondary.base == Some(*line) || secondary.history.contains(*line));
        common.map_or(Lines::Unrelated, Lines::Forked)
    }
}

impl Lines {
    fn are_related(self) -> bool {
        match self {
            Lines::Same
            | Lines::SecondaryAtBase
            | Lines::SecondaryLongBehind
            | Lines::PrimaryAtBase
            | Lines::PrimaryLongBehind
            | Lines::Forked(_) => true,
            Lines::Unrelated | Lines::SecondaryNone | Lines::PrimaryNone => false,
        }
    }
}

impl Meeting {
    /// What becomes of it once a person has said that whatever the secondary holds may be lost. A primary
    /// that is not up-to-date is no source even then.
    pub fn overwriting(self) -> Self {
        match self {
            Meeting::Equal | Meeting::Tracked | Meeting::Whole { .. } => self,
            Meeting::PrimaryIsOlder {
                why: Older::PrimaryUnfit(_),
            }
            | Meeting::Refused {
                why: Refused::PrimaryUnfit(_),
            } => self,
            Meeting::SplitBrain { .. } | Meeting::PrimaryIsOlder { .. } | Meeting::Refused { .. } => {
                Meeting::whole(Whole::Ordered)
            }
        }
    }

    fn whole(why: Whole) -> Self {
        Meeting::Whole { why }
    }

    fn older(why: Older) -> Self {
        Meeting::PrimaryIsOlder { why }
    }

    fn refused(why: Refused) -> Self {
        Meeting::Refused { why }
    }

    fn by_map(tracked: bool) -> Self {
        if tracked {
            Meeting::Tracked
        } else {
            Meeting::whole(Whole::NotTracked)
        }
    }
}

#[cfg(test)]
mod tests;
