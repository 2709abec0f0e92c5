//! The record in memory and on disk.

use super::copies::{self, OnVolume};
use super::file::BadRecord;
use super::volume::cut;
use super::{BootId, Here, Record, RecordError, RecordFile};
use crate::backing::Volume;
use crate::config::Durability;
use crate::wire::message::Generation;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing::warn;

/// Longest note. A reason may come from the peer, and the file is read up to a limit.
const NOTE_BYTES_MAX: usize = 4 << 10;

/// The record in memory and on disk, kept equal. Lock order: `places`, `current`; only the first is held
/// while the disk is waited for, so that whoever only looks (a status, a caller) waits for no disk.
#[derive(Debug)]
pub struct Keeper {
    places: Mutex<Places>,
    state: PathBuf,
    here: Here,
    current: Mutex<Record>,
}

/// Where copies of the record lie.
#[derive(Debug)]
struct Places {
    file: RecordFile,
    volumes: Vec<Volume>,
}

impl Keeper {
    /// Reads the record and brings copies that say something else up to date. One that cannot be read is an
    /// error for a person to look at, unless another copy can be.
    ///
    /// `durability` is the weakest of the module's; `volumes` are its directories.
    pub fn open(
        state: &Path,
        module: &str,
        durability: Durability,
        volumes: Vec<Volume>,
    ) -> Result<Self, RecordError> {
        let places = Places {
            file: RecordFile::open(state, module)?,
            volumes,
        };
        let record = places.load(module)?;
        Ok(Keeper {
            places: Mutex::new(places),
            state: state.to_owned(),
            here: Here {
                boot_id: BootId::current(),
                durability,
            },
            current: Mutex::new(record),
        })
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// What is to be noted when a session, or writing alone, begins.
    pub fn here(&self) -> Here {
        self.here
    }

    /// The record as it is on disk.
    pub fn current(&self) -> Record {
        self.lock().clone()
    }

    /// The generation in it. Cheaper than [`Keeper::current`], for the path of a write.
    pub fn generation(&self) -> Option<Generation> {
        self.lock().generation
    }

    /// Changes the record; durable in every place when this returns. After an error the old record stands for
    /// this process; a later one may find the new one, if that reached a disk. Both are true then: no change
    /// is made before what it says is, and nothing is done that it allows before it is durable.
    pub fn update(&self, change: impl FnOnce(&mut Record)) -> Result<Record, RecordError> {
        self.write(change, Places::save)
    }

    /// As [`Keeper::update`], for a change that only lowers what the copy is worth. The volume itself may be
    /// what fails: one place is enough, since of several copies the newest counts.
    pub fn devalue(&self, change: impl FnOnce(&mut Record)) -> Result<Record, RecordError> {
        self.write(change, Places::save_somewhere)
    }

    fn write(
        &self,
        change: impl FnOnce(&mut Record),
        save: impl FnOnce(&Places, &Record) -> Result<(), RecordError>,
    ) -> Result<Record, RecordError> {
        // Nothing in there is changed: a panic elsewhere cannot leave it half changed.
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        let Some(next) = current.changed(change) else {
            return Ok(current);
        };
        save(&places, &next)?;
        *self.lock() = next.clone();
        Ok(next)
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // The value is replaced whole, after the write: a panic elsewhere cannot leave it half changed.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// The record that is written when `change` is made to this one; none when nothing changes.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut Record)) -> Option<Record> {
        let mut next = self.clone();
        change(&mut next);
        // Also where an earlier record was put back whole.
        next.revision = self.revision;
        next.note = next.note.map(|note| cut(note, NOTE_BYTES_MAX));
        if next == *self {
            return None;
        }
        // After a failure the same number is taken again: on disk no place is more than one write ahead.
        next.revision += 1;
        Some(next)
    }

    /// The record as the `revision`th write of it, over copies that differ.
    pub(crate) fn again(self, revision: u64) -> Record {
        Record { revision, ..self }
    }
}

impl Places {
    fn load(&self, module: &str) -> Result<Record, RecordError> {
        let mut on_volumes = Vec::with_capacity(self.volumes.len());
        for volume in &self.volumes {
            on_volumes.push(OnVolume {
                name: volume.name(),
                record: read(volume, module)?,
            });
        }
        let file = match self.file.load() {
            // A volume's copy does as well.
            Err(RecordError::Unreadable { path, problem })
                if on_volumes
                    .iter()
                    .any(|volume| matches!(volume.record, Ok(Some(_)))) =>
            {
                warn!(path = %path.display(), %problem, "the record is damaged; the volume's copy counts");
                None
            }
            result => result?,
        };
        let settled = copies::settle(module, file, &on_volumes)?;
        let mut record = settled.record;
        if settled.is_new {
            let (standing, note) = (record.standing, record.note.as_deref().unwrap_or_default());
            warn!(
                revision = settled.revision,
                ?standing,
                note,
                "copies of the record differed"
            );
            record = record.again(settled.revision + 1);
            self.save(&record)?;
        }
        Ok(record)
    }

    /// The volumes first: `copies.rs` says why.
    fn save(&self, record: &Record) -> Result<(), RecordError> {
        let bytes = record.to_volume().map_err(RecordError::TooLong)?;
        for volume in &self.volumes {
            volume.set_record(&bytes)?;
        }
        self.file.save(record)
    }

    fn save_somewhere(&self, record: &Record) -> Result<(), RecordError> {
        let bytes = record.to_volume().map_err(RecordError::TooLong)?;
        let written = self.volumes.iter().map(|volume| Ok(volume.set_record(&bytes)?));
        let mut results: Vec<Result<(), RecordError>> = written.collect();
        results.push(self.file.save(record));
        if results.iter().any(Result::is_ok) {
            for error in results.into_iter().filter_map(Result::err) {
                warn!(%error, "a copy of the record stays behind");
            }
            return Ok(());
        }
        results.pop().unwrap_or(Ok(()))
    }
}

/// What a volume says. That of another module or a later version is an error at once; what is damaged may be
/// written anew.
fn read(volume: &Volume, module: &str) -> Result<Result<Option<Record>, String>, RecordError> {
    let Some(bytes) = volume.record()? else {
        return Ok(Ok(None));
    };
    match Record::from_volume(&bytes) {
        Ok(record) if record.module == module => Ok(Ok(Some(record))),
        Ok(record) => Err(RecordError::OtherModule {
            path: PathBuf::from(volume.name()),
            found: record.module,
            wanted: module.to_owned(),
        }),
        Err(BadRecord::Damaged(problem)) => Ok(Err(problem)),
        Err(newer @ BadRecord::Format(_)) => Err(newer.at(&PathBuf::from(volume.name()))),
    }
}
