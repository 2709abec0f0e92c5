//! The dirty map on disk, while this node is alone: one file in the state directory, kept by an embedded database whose
//! transactions survive kill and power loss.
//!
//! `docs/wire.md` shows the tables. Numbers of inodes are those of the process that wrote them; whoever loads a map gives
//! new ones ([`Saved::renumber`]).

use super::extents::{Extents, TO_THE_END};
use super::map::{DirtyMap, REGION_BYTES, Record};
use super::marks::{Content, Marks, NodeMarks, Place};
use crate::operation::{FileHandle, InodeId, Name};
use crate::wire::message::Generation;
use redb::{Database, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file, in the state directory.
pub const FILE: &str = "dirty.redb";
/// What could not be read is kept under this name.
const UNREADABLE: &str = "dirty.redb.unreadable";
/// Version of the tables. History: 1, the first.
const FORMAT: u32 = 1;

const HEAD: TableDefinition<&str, &[u8]> = TableDefinition::new("head");
const NODES: TableDefinition<u64, &[u8]> = TableDefinition::new("nodes");
/// Directory and name.
const NAMES: TableDefinition<(u64, &[u8]), ()> = TableDefinition::new("names");
const ADDITIONS: TableDefinition<u64, ()> = TableDefinition::new("additions");
/// Inode, kind of the record, index of the region.
const RECORDS: TableDefinition<(u64, u8, u64), ()> = TableDefinition::new("records");
/// How the peer finds an inode, told after it was saved.
const PEERS: TableDefinition<u64, &[u8]> = TableDefinition::new("peers");

const ATTRIBUTES: u8 = 0;
const REGION: u8 = 1;
const FROM_REGION: u8 = 2;

/// The map of a time alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The line of writes that it belongs to: it counts only if that is the record's.
    pub generation: Generation,
    /// Names were changed on the peer since the parting: places do not identify any more.
    pub names_moved: bool,
    /// How many checkpoints the peer had counted at the parting, at least.
    pub peer_checkpoint: u64,
    /// Everything may differ.
    pub everything: bool,
    /// By inode.
    pub nodes: HashMap<InodeId, SavedNode>,
    /// By directory.
    pub names: HashMap<InodeId, BTreeSet<Name>>,
    /// Directories with new names that are not known.
    pub additions: HashSet<InodeId>,
}

/// One inode of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedNode {
    /// Index of the replicated directory.
    pub root: u32,
    /// By which this node finds it.
    pub handle: FileHandle,
    /// By which the peer does, as far as it has told.
    pub peer_handle: Option<FileHandle>,
    /// Where the peer has it for certain.
    pub place: Option<Place>,
    /// What of its content may differ.
    pub content: Content,
    /// Its attributes may.
    pub attributes: bool,
}

/// One mark of [`Record`], with what is needed to find an inode again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavedRecord {
    /// [`Record::Node`].
    Node {
        /// Its number in this process.
        inode: InodeId,
        /// What is known of it.
        node: SavedNode,
    },
    /// Any other.
    Mark(Record),
}

/// Why a map cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapStoreError {
    /// The file is damaged, or not one.
    #[error("the dirty map {path} cannot be read: {problem}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It was written by a later version, or with other extents.
    #[error("the dirty map {path} {problem}")]
    Other {
        /// Which.
        path: PathBuf,
        /// What is different.
        problem: String,
    },
    /// The system, or the database, refused.
    #[error("cannot {attempt} the dirty map {path}: {problem}")]
    System {
        /// What.
        attempt: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        problem: String,
    },
}

impl MapStoreError {
    /// It can only be set aside.
    pub fn is_unreadable(&self) -> bool {
        match self {
            MapStoreError::Unreadable { .. } | MapStoreError::Other { .. } => true,
            MapStoreError::System { .. } => false,
        }
    }
}

/// The file. Used by any thread; transactions wait for each other.
#[derive(Debug)]
pub struct MapStore {
    database: Database,
    path: PathBuf,
    extent_bytes: NonZeroU64,
}

type Stored<T> = Result<T, MapStoreError>;

impl MapStore {
    /// Opens the file in `state`, which exists, or makes it.
    ///
    /// # Errors
    /// [`MapStoreError`]; one that [`MapStoreError::is_unreadable`] is to be set aside.
    pub fn open(state: &Path, extent_bytes: NonZeroU64) -> Stored<Self> {
        let path = state.join(FILE);
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| system("open", &path, error))?;
        let is_new = is_new || file.metadata().is_ok_and(|metadata| metadata.len() == 0);
        let database = Database::builder()
            .create_file(file)
            .map_err(|error| match error {
                redb::DatabaseError::Storage(redb::StorageError::Io(error))
                    if error.kind() != io::ErrorKind::InvalidData =>
                {
                    system("open", &path, error)
                }
                other => MapStoreError::Unreadable {
                    path: path.clone(),
                    problem: other.to_string(),
                },
            })?;
        let store = MapStore {
            database,
            path,
            extent_bytes,
        };
        if is_new {
            store.begin()?;
            File::open(state)
                .and_then(|directory| directory.sync_all())
                .map_err(|error| system("make", &store.path, error))?;
        }
        store.check_head()?;
        Ok(store)
    }

    /// Puts what cannot be read out of the way, in place of what was put there before.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn set_aside(state: &Path) -> io::Result<()> {
        std::fs::rename(state.join(FILE), state.join(UNREADABLE))?;
        File::open(state)?.sync_all()
    }

    /// The map on disk; none when none is kept.
    ///
    /// # Errors
    /// [`MapStoreError`].
    pub fn load(&self) -> Stored<Option<Saved>> {
        let reading = |error: redb::Error| system("read", &self.path, error);
        let transaction = self
            .database
            .begin_read()
            .map_err(|error| reading(error.into()))?;
        let head = transaction
            .open_table(HEAD)
            .map_err(|error| reading(error.into()))?;
        let value = |key: &str| -> Stored<Option<Vec<u8>>> {
            let found = head.get(key).map_err(|error| reading(error.into()))?;
            Ok(found.map(|value| value.value().to_vec()))
        };
        let Some(generation) = value("generation")? else {
            return Ok(None);
        };
        let generation =
            <[u8; 16]>::try_from(&generation[..]).map_err(|_| self.unreadable("its generation"))?;
        let mut saved = Saved {
            generation: Generation(generation),
            names_moved: value("names_moved")?.is_some(),
            everything: value("everything")?.is_some(),
            peer_checkpoint: match value("peer_checkpoint")? {
                Some(bytes) => u64::from_le_bytes(
                    <[u8; 8]>::try_from(&bytes[..])
                        .map_err(|_| self.unreadable("its count of checkpoints"))?,
                ),
                None => 0,
            },
            nodes: HashMap::new(),
            names: HashMap::new(),
            additions: HashSet::new(),
        };
        self.load_nodes(&transaction, &mut saved)?;
        self.load_names(&transaction, &mut saved)?;
        Ok(Some(saved))
    }

    fn load_nodes(&self, transaction: &redb::ReadTransaction, saved: &mut Saved) -> Stored<()> {
        let reading = |error: redb::Error| system("read", &self.path, error);
        let nodes = transaction
            .open_table(NODES)
            .map_err(|error| reading(error.into()))?;
        for entry in nodes.iter().map_err(|error| reading(error.into()))? {
            let (key, value) = entry.map_err(|error| reading(error.into()))?;
            let node: SavedNode =
                postcard::from_bytes(value.value()).map_err(|_| self.unreadable("an inode in it"))?;
            saved.nodes.insert(InodeId(key.value()), node);
        }
        let peers = transaction
            .open_table(PEERS)
            .map_err(|error| reading(error.into()))?;
        for entry in peers.iter().map_err(|error| reading(error.into()))? {
            let (key, value) = entry.map_err(|error| reading(error.into()))?;
            let handle: FileHandle =
                postcard::from_bytes(value.value()).map_err(|_| self.unreadable("a handle in it"))?;
            if let Some(node) = saved.nodes.get_mut(&InodeId(key.value())) {
                node.peer_handle = Some(handle);
            }
        }
        let records = transaction
            .open_table(RECORDS)
            .map_err(|error| reading(error.into()))?;
        for entry in records.iter().map_err(|error| reading(error.into()))? {
            let (key, _) = entry.map_err(|error| reading(error.into()))?;
            let (inode, kind, index) = key.value();
            let node = saved
                .nodes
                .get_mut(&InodeId(inode))
                .ok_or_else(|| self.unreadable("a mark of an inode that is not in it"))?;
            let range = match kind {
                ATTRIBUTES => {
                    node.attributes = true;
                    continue;
                }
                REGION => Extents::of_bytes(
                    index.saturating_mul(REGION_BYTES),
                    REGION_BYTES,
                    self.extent_bytes,
                ),
                FROM_REGION => index.saturating_mul(REGION_BYTES) / self.extent_bytes..TO_THE_END,
                _ => return Err(self.unreadable("a mark of an unknown kind")),
            };
            if let Content::Extents(extents) = &mut node.content {
                extents.insert(range);
            }
        }
        Ok(())
    }

    fn load_names(&self, transaction: &redb::ReadTransaction, saved: &mut Saved) -> Stored<()> {
        let reading = |error: redb::Error| system("read", &self.path, error);
        let names = transaction
            .open_table(NAMES)
            .map_err(|error| reading(error.into()))?;
        for entry in names.iter().map_err(|error| reading(error.into()))? {
            let (key, _) = entry.map_err(|error| reading(error.into()))?;
            let (directory, name) = key.value();
            let name = Name::new(name).map_err(|_| self.unreadable("a name in it"))?;
            saved.names.entry(InodeId(directory)).or_default().insert(name);
        }
        let additions = transaction
            .open_table(ADDITIONS)
            .map_err(|error| reading(error.into()))?;
        for entry in additions.iter().map_err(|error| reading(error.into()))? {
            let (key, _) = entry.map_err(|error| reading(error.into()))?;
            saved.additions.insert(InodeId(key.value()));
        }
        Ok(())
    }

    /// Puts `saved` in place of what was kept, in one transaction: on disk when this returns.
    ///
    /// # Errors
    /// [`MapStoreError`]; what was kept before is kept then.
    pub fn replace(&self, saved: &Saved) -> Stored<()> {
        self.write("replace", |transaction| {
            empty(transaction)?;
            let mut head = transaction.open_table(HEAD)?;
            head.insert("generation", &saved.generation.0[..])?;
            head.insert("peer_checkpoint", &saved.peer_checkpoint.to_le_bytes()[..])?;
            if saved.names_moved {
                head.insert("names_moved", &[][..])?;
            }
            if saved.everything {
                head.insert("everything", &[][..])?;
            }
            let mut nodes = transaction.open_table(NODES)?;
            for (inode, node) in &saved.nodes {
                nodes.insert(inode.0, &encoded(node)?[..])?;
            }
            let mut names = transaction.open_table(NAMES)?;
            for (directory, some) in &saved.names {
                for name in some {
                    names.insert((directory.0, name.as_bytes()), ())?;
                }
            }
            let mut additions = transaction.open_table(ADDITIONS)?;
            for directory in &saved.additions {
                additions.insert(directory.0, ())?;
            }
            Ok(())
        })
    }

    /// Adds marks to the map of `generation`, all in one transaction: on disk when this returns.
    ///
    /// # Errors
    /// [`MapStoreError`], also when another map is kept; none of them is added then.
    pub fn add(&self, generation: Generation, records: &[SavedRecord]) -> Stored<()> {
        self.write("add to", |transaction| {
            {
                let head = transaction.open_table(HEAD)?;
                let kept = head.get("generation")?;
                if kept.is_none_or(|kept| kept.value() != generation.0) {
                    return Err(Failed::Other("the map that is kept is of another line of writes"));
                }
            }
            let mut nodes = transaction.open_table(NODES)?;
            let mut names = transaction.open_table(NAMES)?;
            let mut additions = transaction.open_table(ADDITIONS)?;
            let mut marks = transaction.open_table(RECORDS)?;
            for record in records {
                match record {
                    SavedRecord::Node { inode, node } => {
                        let kept = nodes.get(inode.0)?.map(|value| value.value().to_vec());
                        let kept = kept.map(|bytes| postcard::from_bytes::<SavedNode>(&bytes));
                        let node = match kept {
                            // It is known already, and its place has become known.
                            Some(Ok(kept)) => SavedNode {
                                place: node.place.clone().or(kept.place),
                                peer_handle: node.peer_handle.clone().or(kept.peer_handle),
                                ..kept
                            },
                            Some(Err(_)) => return Err(Failed::Other("an inode in it does not decode")),
                            None => node.clone(),
                        };
                        nodes.insert(inode.0, &encoded(&node)?[..])?;
                    }
                    SavedRecord::Mark(Record::Attributes { inode }) => {
                        marks.insert((inode.0, ATTRIBUTES, 0), ())?;
                    }
                    SavedRecord::Mark(Record::Region { inode, index }) => {
                        marks.insert((inode.0, REGION, *index), ())?;
                    }
                    SavedRecord::Mark(Record::FromRegion { inode, index }) => {
                        marks.insert((inode.0, FROM_REGION, *index), ())?;
                    }
                    SavedRecord::Mark(Record::Additions { directory }) => {
                        additions.insert(directory.0, ())?;
                    }
                    SavedRecord::Mark(Record::Name { directory, name }) => {
                        names.insert((directory.0, name.as_bytes()), ())?;
                    }
                    SavedRecord::Mark(Record::Node { .. }) => {
                        return Err(Failed::Other("an inode without its handle was to be added"));
                    }
                }
            }
            Ok(())
        })
    }

    /// From now on places do not identify, and the peer finds these inodes by these handles. On disk when this returns.
    ///
    /// # Errors
    /// [`MapStoreError`]; nothing has changed then.
    pub fn set_names_moved(&self, peers: &HashMap<InodeId, FileHandle>) -> Stored<()> {
        self.write("add to", |transaction| {
            transaction.open_table(HEAD)?.insert("names_moved", &[][..])?;
            let mut table = transaction.open_table(PEERS)?;
            for (inode, handle) in peers {
                let bytes =
                    postcard::to_stdvec(handle).map_err(|_| Failed::Other("a handle does not encode"))?;
                table.insert(inode.0, &bytes[..])?;
            }
            Ok(())
        })
    }

    /// Keeps no map any more.
    ///
    /// # Errors
    /// [`MapStoreError`].
    pub fn clear(&self) -> Stored<()> {
        self.write("clear", |transaction| Ok(empty(transaction)?))
    }

    fn begin(&self) -> Stored<()> {
        self.write("make", |transaction| {
            let mut head = transaction.open_table(HEAD)?;
            head.insert("format", &FORMAT.to_le_bytes()[..])?;
            head.insert("extent_bytes", &self.extent_bytes.get().to_le_bytes()[..])?;
            drop(head);
            Ok(empty(transaction)?)
        })
    }

    fn check_head(&self) -> Stored<()> {
        let reading = |error: redb::Error| MapStoreError::Unreadable {
            path: self.path.clone(),
            problem: error.to_string(),
        };
        let transaction = self
            .database
            .begin_read()
            .map_err(|error| reading(error.into()))?;
        let head = transaction
            .open_table(HEAD)
            .map_err(|error| reading(error.into()))?;
        let format = head.get("format").map_err(|error| reading(error.into()))?;
        let format = format.and_then(|value| value.value().try_into().ok().map(u32::from_le_bytes));
        let extent = head.get("extent_bytes").map_err(|error| reading(error.into()))?;
        let extent = extent.and_then(|value| value.value().try_into().ok().map(u64::from_le_bytes));
        let problem = match (format, extent) {
            (Some(FORMAT), Some(extent)) if extent == self.extent_bytes.get() => return Ok(()),
            (Some(FORMAT), Some(extent)) => format!(
                "has extents of {extent} bytes, and the configuration says {}",
                self.extent_bytes
            ),
            (Some(format), _) => format!("has format {format}, this version reads {FORMAT}"),
            (None, _) => return Err(self.unreadable("its head")),
        };
        Err(MapStoreError::Other {
            path: self.path.clone(),
            problem,
        })
    }

    fn write(
        &self,
        attempt: &'static str,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<(), Failed>,
    ) -> Stored<()> {
        let failed = |error: Failed| system(attempt, &self.path, error);
        let transaction = self
            .database
            .begin_write()
            .map_err(|error| failed(error.into()))?;
        // An error drops, and so aborts it.
        work(&transaction).map_err(failed)?;
        transaction.commit().map_err(|error| failed(error.into()))
    }

    fn unreadable(&self, what: &str) -> MapStoreError {
        MapStoreError::Unreadable {
            path: self.path.clone(),
            problem: format!("{what} is not what it should be"),
        }
    }
}

/// Why a transaction did not come about.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Database(#[from] redb::Error),
    #[error("{0}")]
    Other(&'static str),
}

macro_rules! from_database {
    ($($error:ty),*) => {
        $(impl From<$error> for Failed {
            fn from(error: $error) -> Self {
                Failed::Database(error.into())
            }
        })*
    };
}
from_database!(
    redb::TableError,
    redb::StorageError,
    redb::TransactionError,
    redb::CommitError
);

fn encoded(node: &SavedNode) -> Result<Vec<u8>, Failed> {
    postcard::to_stdvec(node).map_err(|_| Failed::Other("an inode does not encode"))
}

/// All tables but the head's own lines.
fn empty(transaction: &redb::WriteTransaction) -> Result<(), Failed> {
    let mut head = transaction.open_table(HEAD)?;
    for key in ["generation", "names_moved", "everything", "peer_checkpoint"] {
        head.remove(key)?;
    }
    transaction.delete_table(NODES)?;
    transaction.delete_table(NAMES)?;
    transaction.delete_table(ADDITIONS)?;
    transaction.delete_table(RECORDS)?;
    transaction.delete_table(PEERS)?;
    // So that reading finds them.
    transaction.open_table(NODES)?;
    transaction.open_table(NAMES)?;
    transaction.open_table(ADDITIONS)?;
    transaction.open_table(RECORDS)?;
    transaction.open_table(PEERS)?;
    Ok(())
}

fn system(attempt: &'static str, path: &Path, error: impl std::fmt::Display) -> MapStoreError {
    MapStoreError::System {
        attempt,
        path: path.to_owned(),
        problem: error.to_string(),
    }
}

impl Saved {
    /// The same with other numbers of inodes.
    #[must_use]
    pub fn renumber(self, number: impl Fn(InodeId) -> InodeId) -> Self {
        let placed = |place: Place| Place {
            parent: number(place.parent),
            ..place
        };
        let nodes = self.nodes.into_iter().map(|(inode, node)| {
            let place = node.place.map(placed);
            (number(inode), SavedNode { place, ..node })
        });
        Saved {
            nodes: nodes.collect(),
            names: self
                .names
                .into_iter()
                .map(|(directory, names)| (number(directory), names))
                .collect(),
            additions: self.additions.into_iter().map(&number).collect(),
            ..self
        }
    }

    /// The map in memory.
    pub fn into_map(self, extent_bytes: NonZeroU64) -> DirtyMap {
        let nodes = self.nodes.into_iter().map(|(inode, node)| {
            let marks = NodeMarks {
                content: node.content,
                attributes: node.attributes,
                place: node.place,
            };
            (inode, marks)
        });
        let marks = Marks {
            nodes: nodes.collect(),
            names: self.names,
            additions: self.additions,
            everything: self.everything,
        };
        DirtyMap::restore(marks, extent_bytes)
    }
}
