//! Several copies of one record: which of them counts, and whether they still speak of one and the same copy
//! of the data. Pure.
//!
//! A write goes to the volumes first, one after the other, and to the state directory last; each is on disk
//! before the next begins. So a crash leaves volumes that are exactly one write ahead of the state directory,
//! and never one that is behind: that is a volume which was restored from a backup, and its files with it.
//! With the other order the two could not be told apart, and the files of an old snapshot would pass for
//! those that the record speaks of.

use super::{Record, RecordError};
use crate::control::status::Standing;
use std::path::PathBuf;

/// What lies on one volume.
pub(crate) struct OnVolume {
    /// The directory, for messages.
    pub(crate) name: String,
    /// None when there is none; the problem when it cannot be read.
    pub(crate) record: Result<Option<Record>, String>,
}

/// What all copies together say.
pub(crate) struct Settled {
    /// The one that counts, with what the others make of it.
    pub(crate) record: Record,
    /// Some copy says something else: all have to be written.
    pub(crate) is_new: bool,
    /// The highest revision of any.
    pub(crate) revision: u64,
}

/// Compares the copies. `file` is that of the state directory, none when it is missing or damaged.
///
/// | state directory | volumes | what counts |
/// |---|---|---|
/// | none | none | a new record |
/// | none | some | the newest volume's; its map is lost with the state directory |
/// | format 1 | none | the state directory's |
/// | n | all n, and the same | it |
/// | n | each n or n+1, on its line or the next | the newest: a crash between the two |
/// | n | one below n or above n+1, none, unreadable, another n, another line | the newest, as *verify* |
///
/// # Errors
/// [`RecordError::Unreadable`] when nothing can be read and something is there.
pub(crate) fn settle(
    module: &str,
    file: Option<Record>,
    volumes: &[OnVolume],
) -> Result<Settled, RecordError> {
    let readable = || {
        volumes
            .iter()
            .filter_map(|volume| volume.record.as_ref().ok()?.as_ref())
    };
    // Of equal ones the last, which is the state directory's: it has the whole note.
    let newest = readable().chain(&file).max_by_key(|record| record.revision);
    let Some(newest) = newest else {
        if let Some((name, problem)) = volumes
            .iter()
            .find_map(|volume| Some((&volume.name, volume.record.as_ref().err()?)))
        {
            return Err(RecordError::Unreadable {
                path: PathBuf::from(name),
                problem: problem.clone(),
            });
        }
        return Ok(Settled {
            record: Record::new(module),
            is_new: false,
            revision: 0,
        });
    };
    let known = file
        .as_ref()
        .or_else(|| readable().min_by_key(|record| record.revision));
    let doubts: Vec<String> = known
        .into_iter()
        .flat_map(|known| volumes.iter().filter_map(|volume| doubt(known, newest, volume)))
        .collect();
    let mut record = newest.clone();
    if file.is_none() {
        record.tracked = false;
        record.note = Some("the state directory was lost; the record is the volume's".into());
    }
    if !doubts.is_empty() {
        record.distrust(doubts.join("; "));
    }
    let all_say_it = file.as_ref() == Some(&record)
        && volumes
            .iter()
            .all(|volume| matches!(&volume.record, Ok(Some(copy)) if is_same(copy, &record)));
    Ok(Settled {
        is_new: !all_say_it,
        revision: newest.revision,
        record,
    })
}

/// Why a volume is not the one that the record speaks of, if so. `known` is the oldest copy that may be: that
/// of the state directory, if there is one.
fn doubt(known: &Record, newest: &Record, volume: &OnVolume) -> Option<String> {
    let name = &volume.name;
    let copy = match &volume.record {
        Ok(Some(copy)) => copy,
        // Records of the first format were in the state directory only.
        Ok(None) if known.revision == 0 => return None,
        Ok(None) => {
            return Some(format!(
                "{name} has no record: it was exchanged, or is not mounted"
            ));
        }
        Err(problem) => return Some(format!("the record of {name} cannot be read ({problem})")),
    };
    if copy.revision < known.revision {
        return Some(format!(
            "{name} is older than its record: it was restored from a backup"
        ));
    }
    let ahead = copy.revision - known.revision;
    if ahead > 1 {
        return Some(format!(
            "the state directory is older than {name}: it was restored from a backup, or the volume exchanged"
        ));
    }
    let is_its = match ahead {
        0 => is_same(copy, known),
        _ => is_same(copy, newest) && follows(copy, known),
    };
    (!is_its).then(|| format!("{name} has the record of another copy: it was exchanged"))
}

/// The note may be cut on the volume.
fn is_same(one: &Record, other: &Record) -> bool {
    let without_note = |record: &Record| Record {
        note: None,
        ..record.clone()
    };
    without_note(one) == without_note(other)
}

/// Whether one write leads from `former` to `next`.
fn follows(next: &Record, former: &Record) -> bool {
    match (next.generation, former.generation) {
        (Some(next_line), Some(former_line)) => {
            next_line == former_line
                || next.history.contains(former_line)
                // A session that was never welcomed is taken back.
                || former.history.contains(next_line)
                // A whole copy forgets what was before.
                || next.standing == Standing::Inconsistent
        }
        (None, _) | (_, None) => true,
    }
}
