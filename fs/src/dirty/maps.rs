//! The durable map of a module: the store, opened again after it has failed.

use super::store::{MapStore, Saved, SavedRecord, StoreError};
use crate::operation::{FileHandle, InodeId};
use crate::record::Record;
use crate::wire::message::Generation;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module. Used by any thread; calls wait for each other, and for the disk.
#[derive(Debug)]
pub struct Maps {
    store: Mutex<MapStore>,
    directory: PathBuf,
    extent_bytes: u64,
}

impl Maps {
    /// Opens the file in the state directory, which exists, or makes it. What cannot be read is set aside: the second
    /// value says why, and that the next copy compares everything.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn open(directory: &Path, extent_bytes: u64) -> Result<(Self, Option<StoreError>), StoreError> {
        let (store, unreadable) = open(directory, extent_bytes)?;
        let maps = Maps {
            store: Mutex::new(store),
            directory: directory.to_owned(),
            extent_bytes,
        };
        Ok((maps, unreadable))
    }

    /// As [`MapStore::load`].
    ///
    /// # Errors
    /// As [`MapStore::load`].
    pub fn load(&self) -> Result<Option<Saved>, StoreError> {
        self.lock().load()
    }

    /// What this node has changed without its peer, as `record` tells of it; none when that is not known.
    ///
    /// # Errors
    /// As [`MapStore::load`].
    pub fn changed_alone(&self, record: &Record) -> Result<Option<Saved>, StoreError> {
        if !record.peer_lacks_data || !record.tracked {
            return Ok(None);
        }
        let saved = self.lock().load()?;
        Ok(saved.filter(|saved| Some(saved.generation) == record.generation))
    }

    /// As [`MapStore::replace`]; a store that has failed before is opened again.
    ///
    /// # Errors
    /// As [`MapStore::replace`].
    pub fn replace(&self, saved: &Saved) -> Result<(), StoreError> {
        let mut store = self.lock();
        match store.replace(saved) {
            Err(StoreError::Failed { .. }) => {
                let (again, unreadable) = open(&self.directory, self.extent_bytes)?;
                if let Some(error) = unreadable {
                    tracing::warn!(%error, "the dirty map was set aside");
                }
                *store = again;
                store.replace(saved)
            }
            replaced => replaced,
        }
    }

    /// As [`MapStore::add`].
    ///
    /// # Errors
    /// As [`MapStore::add`].
    pub fn add(&self, generation: Generation, records: &[SavedRecord]) -> Result<(), StoreError> {
        self.lock().add(generation, records)
    }

    /// As [`MapStore::set_names_moved`].
    ///
    /// # Errors
    /// As [`MapStore::set_names_moved`].
    pub fn set_names_moved(
        &self,
        generation: Generation,
        handles: &[(InodeId, FileHandle)],
    ) -> Result<(), StoreError> {
        self.lock().set_names_moved(generation, handles)
    }

    /// As [`MapStore::clear`], unless the map is of another time alone.
    ///
    /// # Errors
    /// As [`MapStore::clear`].
    pub fn clear(&self, generation: Generation) -> Result<(), StoreError> {
        let mut store = self.lock();
        if store.generation() == Some(generation) {
            return store.clear();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, MapStore> {
        // Panics of the database are errors there.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(directory: &Path, extent_bytes: u64) -> Result<(MapStore, Option<StoreError>), StoreError> {
    match MapStore::open(directory, extent_bytes) {
        Ok(store) => Ok((store, None)),
        Err(error @ (StoreError::Unreadable { .. } | StoreError::Newer { .. })) => {
            let store = MapStore::begin_anew(directory, extent_bytes)?;
            Ok((store, Some(error)))
        }
        Err(error) => Err(error),
    }
}
