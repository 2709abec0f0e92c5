//! The durable part of the dirty map: `dirty.redb` in the state directory. `docs/wire.md` has its tables as bytes.
//!
//! What is here outlives a crash of this node: a record is on disk before the change that it speaks of is applied. It
//! decides nothing. A file that cannot be read, or that a newer version wrote, is a typed error, which the caller
//! turns into "everything may differ"; it is never taken for an empty map.
//!
//! One task owns a [`MapStore`]; each call returns when the disk has what it was given.

mod error;
mod file;
pub mod records;
pub mod saved;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod power_tests;
#[cfg(test)]
mod size_tests;
#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use records::{BadValue, REGION_BYTES, Records, SavedRecord};
pub use saved::{Saved, SavedNode, Units};

use crate::operation::{FileHandle, InodeId};
use crate::wire::message::Generation;
use error::{Fault, shielded};
use redb::{Database, ReadableTable, StorageBackend, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Version of the tables. History: 1, the first; 2, whether anything was changed, and how exactly it is known what.
const FORMAT: u32 = 2;
/// What every file has: [`KEY_FORMAT`], and [`KEY_MAP`] while it holds a map.
const HEAD: TableDefinition<u8, &[u8]> = TableDefinition::new("head");
/// [`FORMAT`], 4 bytes, big-endian: the one value that no version may change the form of.
const KEY_FORMAT: u8 = 0;
/// A [`MapHead`].
const KEY_MAP: u8 = 1;
/// The map's records in the order in which they were added, one or more in each value; keys count from 0.
const GROUPS: TableDefinition<u64, &[u8]> = TableDefinition::new("groups");
/// Where a value ends and the next begins: with key, length and the page's own head it fills a page of 4096.
const GROUP_BYTES: usize = 4000;
/// Memory for pages. A commit touches a handful; more than fits is written early.
const CACHE_BYTES: usize = 8 << 20;
/// Smallest extent (the configuration has the same limit).
const EXTENT_BYTES_MIN: u64 = 4 << 10;

/// What holds of a whole map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MapHead {
    generation: Generation,
    /// The unit of [`SavedRecord::Extents`].
    extent_bytes: u64,
    names_moved: bool,
    peer_checkpoint: u64,
    everything: bool,
    coarse: bool,
}

/// The open file. Dropping it closes it cleanly, which waits for the disk.
#[derive(Debug)]
pub struct MapStore {
    /// None once a call has failed: what the file holds is known only when it has been opened again.
    database: Option<Database>,
    path: PathBuf,
    extent_bytes: u64,
    /// Whose map the file holds.
    held: Option<Generation>,
    /// Its head says that it is coarse.
    is_coarse: bool,
    /// The key of the next value in [`GROUPS`].
    next: u64,
    /// Kept for its memory.
    buffer: Vec<u8>,
}

impl MapStore {
    /// Opens the file in the state directory `directory`, or makes it. `extent_bytes` is the extent of the running
    /// process; a map with another one is converted when it is loaded.
    ///
    /// The whole file is checked, which takes as long as reading it.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] and [`StoreError::Newer`] when there is a file that says nothing to this version:
    /// [`MapStore::begin_anew`] sets it aside.
    ///
    /// # Panics
    /// When `extent_bytes` is not a power of two from 4 KiB to [`REGION_BYTES`]: the configuration has checked it.
    pub fn open(directory: &Path, extent_bytes: u64) -> Result<Self, StoreError> {
        match file::open(directory)? {
            Some((path, backend)) => Self::existing(backend, path, extent_bytes),
            None => Self::begin(directory, extent_bytes),
        }
    }

    /// Sets aside what is there, as `dirty.redb.unreadable` in place of an earlier one, and begins a file without
    /// a map.
    ///
    /// # Errors
    /// [`StoreError::System`] mostly.
    ///
    /// # Panics
    /// As [`MapStore::open`].
    pub fn begin_anew(directory: &Path, extent_bytes: u64) -> Result<Self, StoreError> {
        file::set_aside(directory)?;
        Self::begin(directory, extent_bytes)
    }

    /// The map in the file, or that there is none.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] as [`MapStore::open`].
    pub fn load(&self) -> Result<Option<Saved>, StoreError> {
        let database = self.database.as_ref().ok_or_else(|| self.failed())?;
        shielded(|| load(database, self.extent_bytes)).map_err(|fault| fault.of("read", &self.path))
    }

    /// Writes `saved` in place of what the file holds, whole or not at all.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it holds what could not be read again, else [`StoreError::System`] mostly.
    pub fn replace(&mut self, saved: &Saved) -> Result<(), StoreError> {
        let head = MapHead {
            generation: saved.generation,
            extent_bytes: self.extent_bytes,
            names_moved: saved.names_moved,
            peer_checkpoint: saved.peer_checkpoint,
            everything: saved.everything,
            coarse: saved.coarse,
        };
        self.transact("write the map to", |change| {
            change.remove_groups()?;
            change.put_head(&head)?;
            change.add(|groups| saved.records(|record| groups.push(record)))
        })?;
        self.held = Some(saved.generation);
        self.is_coarse = saved.coarse;
        Ok(())
    }

    /// Adds records to the map of `generation`: all of them are on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError::OtherGeneration`] when the file holds another map or none; after [`StoreError::System`] some
    /// of them may be on disk and the file is to be opened again.
    pub fn add(&mut self, generation: Generation, records: &[SavedRecord]) -> Result<(), StoreError> {
        self.holds(generation)?;
        if records.is_empty() {
            return Ok(());
        }
        let additions = |record: &SavedRecord| matches!(record, SavedRecord::Additions { .. });
        let becomes_coarse = !self.is_coarse && records.iter().any(additions);
        self.transact("add to", |change| {
            if becomes_coarse {
                let mut head = change.head()?;
                head.coarse = true;
                change.put_head(&head)?;
            }
            change.add(|groups| records.iter().try_for_each(|record| groups.push(record)))
        })?;
        self.is_coarse |= becomes_coarse;
        Ok(())
    }

    /// From now on only handles identify inodes on the peer, `handles` among them: a copy is about to move names there.
    ///
    /// # Errors
    /// As [`MapStore::add`].
    pub fn set_names_moved(
        &mut self,
        generation: Generation,
        handles: &[(InodeId, FileHandle)],
    ) -> Result<(), StoreError> {
        self.holds(generation)?;
        self.transact("add to", |change| {
            let mut head = change.head()?;
            head.names_moved = true;
            change.put_head(&head)?;
            change.add(|groups| {
                handles.iter().try_for_each(|(inode, handle)| {
                    groups.push(&SavedRecord::PeerHandle {
                        inode: *inode,
                        handle: handle.clone(),
                    })
                })
            })
        })
    }

    /// Forgets the map and gives its room back to the file system. Not for the path of a write: it takes as long as
    /// some ten syncs.
    ///
    /// # Errors
    /// [`StoreError::System`] mostly. The map is gone for certain only after `Ok`.
    pub fn clear(&mut self) -> Result<(), StoreError> {
        self.transact("clear", |change| {
            change.remove_groups()?;
            change.remove_head()
        })?;
        self.held = None;
        let Some(database) = &mut self.database else {
            return Err(self.failed());
        };
        let compacted = shielded(|| Ok(database.compact()?));
        compacted.map(drop).map_err(|fault| self.fail(fault, "shrink"))
    }

    /// Whose map the file holds.
    pub fn generation(&self) -> Option<Generation> {
        self.held
    }

    fn begin(directory: &Path, extent_bytes: u64) -> Result<Self, StoreError> {
        let new = file::create(directory)?;
        let store = Self::empty(new.backend()?, new.path().to_owned(), extent_bytes)?;
        new.keep()?;
        Ok(store)
    }

    /// A store on a backend without content.
    fn empty(backend: impl StorageBackend, path: PathBuf, extent_bytes: u64) -> Result<Self, StoreError> {
        check_extent(extent_bytes);
        let database = shielded(|| {
            // Format 3, which later versions of redb read, too.
            let mut builder = Database::builder();
            builder
                .set_cache_size(CACHE_BYTES)
                .create_with_file_format_v3(true);
            let database = builder.create_with_backend(backend)?;
            let transaction = database.begin_write()?;
            let mut head = transaction.open_table(HEAD)?;
            head.insert(KEY_FORMAT, FORMAT.to_be_bytes().as_slice())?;
            drop(head);
            transaction.open_table(GROUPS)?;
            transaction.commit()?;
            Ok(database)
        })
        .map_err(|fault| fault.of("make", &path))?;
        Ok(MapStore {
            database: Some(database),
            path,
            extent_bytes,
            held: None,
            is_coarse: false,
            next: 0,
            buffer: Vec::new(),
        })
    }

    /// A store on a backend with content.
    fn existing(backend: impl StorageBackend, path: PathBuf, extent_bytes: u64) -> Result<Self, StoreError> {
        check_extent(extent_bytes);
        shielded(|| {
            let repaired = Arc::new(AtomicBool::new(false));
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES).set_repair_callback({
                let repaired = Arc::clone(&repaired);
                move |_| repaired.store(true, Ordering::Relaxed)
            });
            let mut database = builder.create_with_backend(backend)?;
            // A repair has read everything already. Without one nothing has been compared with its checksum.
            if !repaired.load(Ordering::Relaxed) && !database.check_integrity()? {
                spoil(&database)?;
                return Err(BadValue::Table("what was written last is damaged").into());
            }
            let head = check_head(&database)?;
            let next = next_group(&database)?;
            Ok((database, head, next))
        })
        .map(|(database, head, next)| MapStore {
            database: Some(database),
            path: path.clone(),
            extent_bytes,
            held: head.as_ref().map(|head| head.generation),
            is_coarse: head.is_some_and(|head| head.coarse),
            next,
            buffer: Vec::new(),
        })
        .map_err(|fault| fault.of("open", &path))
    }

    /// Runs `body` in one transaction, which is on disk when this returns `Ok`: one sync, as a commit is one phase with
    /// checksums unless redb is told otherwise.
    fn transact(
        &mut self,
        attempt: &'static str,
        body: impl FnOnce(&mut Change<'_>) -> Result<(), Fault>,
    ) -> Result<(), StoreError> {
        let Some(database) = &self.database else {
            return Err(self.failed());
        };
        let (buffer, next) = (&mut self.buffer, self.next);
        let done = shielded(|| {
            let transaction = database.begin_write()?;
            let mut change = Change {
                transaction: &transaction,
                buffer,
                next,
            };
            body(&mut change)?;
            let next = change.next;
            transaction.commit()?;
            Ok(next)
        });
        match done {
            Ok(next) => {
                self.next = next;
                Ok(())
            }
            // Nothing of it was committed, and the file is as it was.
            Err(Fault::Bad(problem)) => Err(StoreError::Refused {
                path: self.path.clone(),
                problem,
            }),
            Err(fault) => Err(self.fail(fault, attempt)),
        }
    }

    fn fail(&mut self, fault: Fault, attempt: &'static str) -> StoreError {
        self.close();
        fault.of(attempt, &self.path)
    }

    fn failed(&self) -> StoreError {
        StoreError::Failed {
            path: self.path.clone(),
        }
    }

    fn close(&mut self) {
        if let Some(database) = self.database.take() {
            // Closing says in the file that it was closed cleanly. If that fails, the next start reads all of it.
            let _: Result<(), Fault> = shielded(|| {
                drop(database);
                Ok(())
            });
        }
    }

    fn holds(&self, generation: Generation) -> Result<(), StoreError> {
        if self.held == Some(generation) {
            return Ok(());
        }
        Err(StoreError::OtherGeneration {
            path: self.path.clone(),
            held: self.held,
            given: generation,
        })
    }
}

impl Drop for MapStore {
    fn drop(&mut self) {
        self.close();
    }
}

/// A transaction that changes the map.
struct Change<'a> {
    transaction: &'a WriteTransaction,
    buffer: &'a mut Vec<u8>,
    next: u64,
}

impl Change<'_> {
    fn remove_groups(&mut self) -> Result<(), Fault> {
        self.transaction.delete_table(GROUPS)?;
        self.transaction.open_table(GROUPS)?;
        self.next = 0;
        Ok(())
    }

    fn remove_head(&mut self) -> Result<(), Fault> {
        self.transaction.open_table(HEAD)?.remove(KEY_MAP)?;
        Ok(())
    }

    fn put_head(&mut self, head: &MapHead) -> Result<(), Fault> {
        let bytes = postcard::to_stdvec(head).map_err(BadValue::from)?;
        self.transaction
            .open_table(HEAD)?
            .insert(KEY_MAP, bytes.as_slice())?;
        Ok(())
    }

    fn head(&self) -> Result<MapHead, Fault> {
        match self.transaction.open_table(HEAD)?.get(KEY_MAP)? {
            Some(value) => MapHead::decode(value.value()),
            None => Err(BadValue::Table("there is no map").into()),
        }
    }

    fn add(&mut self, body: impl FnOnce(&mut Groups<'_, '_>) -> Result<(), Fault>) -> Result<(), Fault> {
        self.buffer.clear();
        let mut groups = Groups {
            table: self.transaction.open_table(GROUPS)?,
            buffer: self.buffer,
            next: self.next,
        };
        body(&mut groups)?;
        self.next = groups.finish()?;
        Ok(())
    }
}

/// Puts records together into values.
struct Groups<'txn, 'buffer> {
    table: Table<'txn, u64, &'static [u8]>,
    buffer: &'buffer mut Vec<u8>,
    next: u64,
}

impl Groups<'_, '_> {
    fn push(&mut self, record: &SavedRecord) -> Result<(), Fault> {
        let before = self.buffer.len();
        record.encode(self.buffer)?;
        if before > 0 && self.buffer.len() > GROUP_BYTES {
            self.table.insert(self.next, &self.buffer[..before])?;
            self.next += 1;
            self.buffer.drain(..before);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<u64, Fault> {
        if !self.buffer.is_empty() {
            self.table.insert(self.next, self.buffer.as_slice())?;
            self.next += 1;
        }
        Ok(self.next)
    }
}

impl MapHead {
    fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let (head, rest) = postcard::take_from_bytes::<MapHead>(bytes).map_err(BadValue::from)?;
        let extents = EXTENT_BYTES_MIN..=REGION_BYTES;
        if !rest.is_empty() || !head.extent_bytes.is_power_of_two() || !extents.contains(&head.extent_bytes) {
            return Err(BadValue::Table("the map's head is outside its limits").into());
        }
        Ok(head)
    }
}

/// The map's head, if there is a map, once the format is known to be this version's.
fn check_head(database: &Database) -> Result<Option<MapHead>, Fault> {
    let transaction = database.begin_read()?;
    let head = transaction.open_table(HEAD)?;
    let format = head.get(KEY_FORMAT)?.ok_or(BadValue::Table("it has no format"))?;
    let format =
        <[u8; 4]>::try_from(format.value()).map_err(|_| BadValue::Table("its format is no number"))?;
    match u32::from_be_bytes(format) {
        FORMAT => {}
        0 => return Err(BadValue::Table("its format is 0").into()),
        1..FORMAT => return Err(BadValue::Table("an earlier version wrote it").into()),
        found => return Err(Fault::Newer(found)),
    }
    match head.get(KEY_MAP)? {
        Some(value) => MapHead::decode(value.value()).map(Some),
        None => Ok(None),
    }
}

fn next_group(database: &Database) -> Result<u64, Fault> {
    let groups = database.begin_read()?.open_table(GROUPS)?;
    let last = groups.last()?.map_or(0, |(key, _)| key.value().saturating_add(1));
    Ok(last)
}

fn load(database: &Database, extent_bytes: u64) -> Result<Option<Saved>, Fault> {
    let transaction = database.begin_read()?;
    let Some(value) = transaction.open_table(HEAD)?.get(KEY_MAP)? else {
        return Ok(None);
    };
    let head = MapHead::decode(value.value())?;
    let units = Units {
        stored: head.extent_bytes,
        used: extent_bytes,
    };
    let mut saved = Saved {
        names_moved: head.names_moved,
        peer_checkpoint: head.peer_checkpoint,
        everything: head.everything,
        coarse: head.coarse,
        ..Saved::new(head.generation)
    };
    for (group, expected) in transaction.open_table(GROUPS)?.iter()?.zip(0..) {
        let (key, value) = group?;
        if key.value() != expected {
            return Err(BadValue::Table("records are missing").into());
        }
        for record in Records::of(value.value()) {
            saved.fold(record?, units)?;
        }
    }
    Ok(Some(saved))
}

/// Makes a file that was found damaged, and was mended by going back to an earlier commit, unreadable for good:
/// otherwise it would pass for whole at the next start.
fn spoil(database: &Database) -> Result<(), Fault> {
    let transaction = database.begin_write()?;
    transaction.delete_table(HEAD)?;
    transaction.commit()?;
    Ok(())
}

fn check_extent(extent_bytes: u64) {
    assert!(
        extent_bytes.is_power_of_two() && (EXTENT_BYTES_MIN..=REGION_BYTES).contains(&extent_bytes),
        "an extent of {extent_bytes} bytes"
    );
}
