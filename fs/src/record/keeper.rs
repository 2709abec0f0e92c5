//! The record in memory and on disk.

use super::{Record, RecordError, RecordFile};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The record in memory and on disk, kept equal. Lock order: `file`, `current`; only the first is held while the disk
/// is waited for, so that whoever only looks (a status, a caller) waits for no disk.
#[derive(Debug)]
pub struct Keeper {
    file: Mutex<RecordFile>,
    state: PathBuf,
    current: Mutex<Record>,
}

impl Keeper {
    /// Reads the record. One that cannot be read is an error for a person to look at.
    pub fn open(state: &Path, module: &str) -> Result<Self, RecordError> {
        let file = RecordFile::open(state, module)?;
        let current = Mutex::new(file.load()?);
        Ok(Keeper {
            file: Mutex::new(file),
            state: state.to_owned(),
            current,
        })
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The record as it is on disk.
    pub fn current(&self) -> Record {
        self.lock().clone()
    }

    /// Changes the record; durable when this returns. After an error the old record stands.
    pub fn update(&self, change: impl FnOnce(&mut Record)) -> Result<Record, RecordError> {
        // Nothing in there is changed: a panic elsewhere cannot leave it half changed.
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        let mut next = current.clone();
        change(&mut next);
        if next != current {
            file.save(&next)?;
            *self.lock() = next.clone();
        }
        Ok(next)
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // The value is replaced whole, after the write: a panic elsewhere cannot leave it half changed.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
