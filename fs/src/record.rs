//! The durable record of this node's copy of one module, and the rules that read it.
//!
//! One small JSON file in the state directory, replaced atomically: written beside, synced, renamed, and the
//! directory synced. It is written when roles, generations or standing change, never per operation.

use crate::control::status::Standing;
use crate::wire::message::{Generation, Rejection, Start};
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Version of the file. History: 1, the first.
const FORMAT: u32 = 1;
const FILE: &str = "record.json";
/// Why a full secondary is not made like an empty primary.
const EMPTY_PRIMARY: &str = "it holds files and the primary is empty; is the primary's volume mounted?";
const TEMPORARY: &str = "record.json.new";

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
    /// The dirty map on disk has no gap since the pair parted.
    #[serde(default)]
    pub tracked: bool,
    /// How many checkpoints of both nodes were counted on this generation.
    #[serde(default)]
    pub checkpoint: u64,
    /// Why `standing`, `open` or `peer_lacks_data` are as they are, for a person.
    pub note: Option<String>,
}

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The system refused.
    #[error("cannot {attempt} {path}: {source}")]
    System {
        /// Which step.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a record, or one of a newer version.
    #[error("{path} is not a record that this version can read ({problem}); the copy counts as 'verify'")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The state of another module.
    #[error(
        "the state directory {path} belongs to module {found}, not to {wanted}; give each module its own"
    )]
    OtherModule {
        /// The directory.
        path: PathBuf,
        /// In the file.
        found: String,
        /// In the configuration.
        wanted: String,
    },
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
            tracked: false,
            checkpoint: 0,
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
        self.checkpoint = 0;
        self.standing = Standing::UpToDate;
        self.open = true;
        self.peer_lacks_data = false;
        self.note = None;
    }

    /// This copy is mixed until one with this generation has been copied to it completely.
    pub fn begin_copy(&mut self, generation: Generation, tracked: bool) {
        // What it was is the base of the primary's line as long as nothing else is brought over than its map names.
        let before = match self.standing {
            Standing::Inconsistent => self.base,
            Standing::UpToDate | Standing::Outdated | Standing::Verify => self.generation,
        };
        self.base = before.filter(|_| tracked);
        self.generation = Some(generation);
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
            Start::Fresh {
                generation, clean, ..
            } => (generation, clean),
            Start::Copy {
                generation,
                base,
                overwrite,
                tracked,
                checkpoints,
            } => {
                if *tracked {
                    self.admits_tracked(empty, foreign, *generation, *base, *checkpoints)?;
                }
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

    /// Whether this copy is the one that the primary parted from, so that its map names all that may differ.
    fn admits_tracked(
        &self,
        empty: bool,
        foreign: Option<&str>,
        generation: Generation,
        base: Option<Generation>,
        checkpoints: u64,
    ) -> Result<(), Rejection> {
        let needed = |why: &str| Err(Rejection::FullCopyNeeded(why.to_owned()));
        if self.peer_lacks_data || foreign.is_some() || empty {
            return needed("the secondary does not hold the copy that the primary parted from");
        }
        let parted_from = match self.standing {
            Standing::UpToDate | Standing::Outdated => self.generation,
            // A tracked copy of the same line of writes was interrupted.
            Standing::Inconsistent if self.generation == Some(generation) => self.base,
            Standing::Inconsistent => return needed("the secondary's copy is mixed"),
            Standing::Verify => return needed("the secondary's copy may have been changed unseen"),
        };
        if base.is_none() || parted_from != base {
            return needed("the secondary's copy is not the one that the primary parted from");
        }
        if self.checkpoint < checkpoints {
            return needed("the secondary's copy is older than when the primary parted from it");
        }
        Ok(())
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

/// The place of a module's record.
#[derive(Debug)]
pub struct RecordFile {
    directory: OwnedFd,
    path: PathBuf,
    module: String,
}

impl RecordFile {
    /// Opens (and makes) the state directory.
    pub fn open(state: &Path, module: &str) -> Result<Self, RecordError> {
        let system = |attempt| {
            move |source| RecordError::System {
                attempt,
                path: state.to_owned(),
                source,
            }
        };
        std::fs::create_dir_all(state).map_err(system("make the state directory"))?;
        let directory = rustix::fs::open(
            state,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| system("open the state directory")(errno.into()))?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o700))
            .map_err(|errno| system("protect the state directory")(errno.into()))?;
        Ok(RecordFile {
            directory,
            path: state.join(FILE),
            module: module.to_owned(),
        })
    }

    /// Reads the record; a missing one is that of a new copy.
    pub fn load(&self) -> Result<Record, RecordError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.directory, FILE, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(Record::new(&self.module)),
            Err(errno) => return Err(self.system("open", errno.into())),
        };
        let mut text = String::new();
        // A record is a few hundred bytes; a limit keeps a wrong file from filling the memory.
        File::from(file)
            .take(64 << 10)
            .read_to_string(&mut text)
            .map_err(|source| self.system("read", source))?;
        let record: Record =
            serde_json::from_str(&text).map_err(|error| self.unreadable(error.to_string()))?;
        if record.format != FORMAT {
            return Err(self.unreadable(format!("its format is {}, this is {FORMAT}", record.format)));
        }
        if record.module != self.module {
            return Err(RecordError::OtherModule {
                path: self.path.clone(),
                found: record.module,
                wanted: self.module.clone(),
            });
        }
        Ok(record)
    }

    /// Makes `record` durable; when this returns, no crash brings the old one back.
    pub fn save(&self, record: &Record) -> Result<(), RecordError> {
        let mut text =
            serde_json::to_vec_pretty(record).map_err(|error| self.unreadable(error.to_string()))?;
        text.push(b'\n');
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.directory, TEMPORARY, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| self.system("write", errno.into()))?;
        let mut file = File::from(file);
        file.write_all(&text)
            .map_err(|source| self.system("write", source))?;
        file.sync_all().map_err(|source| self.system("sync", source))?;
        rustix::fs::renameat(&self.directory, TEMPORARY, &self.directory, FILE)
            .map_err(|errno| self.system("replace", errno.into()))?;
        rustix::fs::fsync(&self.directory).map_err(|errno| self.system("sync the directory of", errno.into()))
    }

    /// Forgets the record: the next one is that of a new copy.
    pub fn remove(&self) -> Result<(), RecordError> {
        match rustix::fs::unlinkat(&self.directory, FILE, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(self.system("remove", errno.into())),
        }
        rustix::fs::fsync(&self.directory).map_err(|errno| self.system("sync the directory of", errno.into()))
    }

    fn system(&self, attempt: &'static str, source: io::Error) -> RecordError {
        RecordError::System {
            attempt,
            path: self.path.clone(),
            source,
        }
    }

    fn unreadable(&self, problem: String) -> RecordError {
        RecordError::Unreadable {
            path: self.path.clone(),
            problem,
        }
    }
}

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

impl Generation {
    /// A new line of writes.
    ///
    /// # Errors
    /// When the kernel gives no random bytes (`getrandom(2)`), which is no state to go on in.
    pub fn random() -> io::Result<Self> {
        random_bytes().map(Generation)
    }
}

/// 16 bytes of `getrandom(2)`.
pub(crate) fn random_bytes() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let length = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if length == bytes.len() {
        return Ok(bytes);
    }
    Err(io::Error::other("getrandom(2) gave fewer bytes than asked"))
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a generation is 32 hexadecimal digits")]
pub struct BadGeneration;

impl FromStr for Generation {
    type Err = BadGeneration;
    fn from_str(text: &str) -> Result<Self, BadGeneration> {
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(BadGeneration);
        }
        let value = u128::from_str_radix(text, 16).map_err(|_| BadGeneration)?;
        Ok(Generation(value.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(generation: u8, clean: bool) -> Start {
        Start::Fresh {
            generation: Generation([generation; 16]),
            clean,
            checkpoints: 0,
        }
    }

    fn copy(generation: u8) -> Record {
        Record {
            generation: Some(Generation([generation; 16])),
            ..Record::new("db")
        }
    }

    #[test]
    fn a_saved_record_is_read_again_and_a_missing_one_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let file = RecordFile::open(dir.path(), "db").unwrap();
        assert_eq!(file.load().unwrap(), Record::new("db"));
        let record = Record {
            open: true,
            note: Some("x".into()),
            ..copy(3)
        };
        file.save(&record).unwrap();
        assert_eq!(
            RecordFile::open(dir.path(), "db").unwrap().load().unwrap(),
            record
        );
        assert!(matches!(
            RecordFile::open(dir.path(), "other").unwrap().load(),
            Err(RecordError::OtherModule { .. })
        ));
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), Record::new("db"));
    }

    #[test]
    fn a_damaged_or_newer_record_is_an_error_and_never_a_new_copy() {
        let dir = tempfile::tempdir().unwrap();
        let file = RecordFile::open(dir.path(), "db").unwrap();
        for text in ["", "{", "{\"format\":1}", "nonsense"] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            assert!(
                matches!(file.load(), Err(RecordError::Unreadable { .. })),
                "{text:?}"
            );
        }
        let newer = Record {
            format: FORMAT + 1,
            ..copy(1)
        };
        std::fs::write(dir.path().join(FILE), serde_json::to_vec(&newer).unwrap()).unwrap();
        assert!(file.load().unwrap_err().to_string().contains("format is 2"));
    }

    #[test]
    fn a_session_begins_only_between_copies_that_are_provably_equal() {
        let refused = |record: &Record, empty, start: &Start, peer_empty| {
            matches!(
                record.admits(empty, None, start, peer_empty),
                Err(Rejection::FullCopyNeeded(_) | Rejection::WouldOverwrite(_))
            )
        };
        assert_eq!(
            Record::new("db").admits(true, None, &fresh(1, true), true),
            Ok(()),
            "both empty"
        );
        assert_eq!(
            copy(1).admits(false, None, &fresh(1, true), false),
            Ok(()),
            "same generation, both clean"
        );
        assert!(
            refused(&copy(1), true, &fresh(1, true), false),
            "the volume is not mounted here"
        );
        assert!(
            refused(&Record::new("db"), true, &fresh(1, true), false),
            "empty secondary, full primary"
        );
        assert!(
            refused(&Record::new("db"), false, &fresh(1, true), true),
            "strange files on the secondary"
        );
        assert!(
            refused(&copy(1), false, &fresh(2, true), false),
            "another generation"
        );
        assert!(
            refused(&copy(1), false, &fresh(1, false), false),
            "primary crashed or went alone"
        );
        assert!(
            refused(
                &Record {
                    open: true,
                    ..copy(1)
                },
                false,
                &fresh(1, true),
                false
            ),
            "secondary crashed"
        );
        assert!(refused(
            &Record {
                peer_lacks_data: true,
                ..copy(1)
            },
            false,
            &fresh(1, true),
            false
        ));
        for standing in [Standing::Outdated, Standing::Inconsistent, Standing::Verify] {
            assert!(
                refused(&Record { standing, ..copy(1) }, false, &fresh(1, true), false),
                "{standing:?}"
            );
        }
        let resume = Start::Resume {
            confirmed: crate::operation::Number(0),
        };
        assert_eq!(
            copy(1).admits(false, None, &resume, false),
            Err(Rejection::UnknownSession)
        );
    }

    #[test]
    fn a_copy_overwrites_only_what_nobody_can_miss() {
        let generation = |number| Generation([number; 16]);
        let start = |base: Option<u8>, overwrite| Start::Copy {
            generation: generation(9),
            base: base.map(generation),
            overwrite,
            tracked: false,
            checkpoints: 0,
        };
        let admitted = |record: &Record, empty, foreign, start: &Start| {
            record.admits(empty, foreign, start, false).is_ok()
        };
        let own = Record {
            peer_lacks_data: true,
            ..copy(1)
        };
        let mixed = Record {
            standing: Standing::Inconsistent,
            ..copy(3)
        };
        let crashed = Record {
            open: true,
            ..copy(1)
        };
        assert!(
            admitted(&copy(1), false, None, &start(Some(1), false)),
            "left behind"
        );
        assert!(
            admitted(&copy(9), false, None, &start(None, false)),
            "the same line of writes"
        );
        assert!(
            admitted(&crashed, false, None, &start(Some(1), false)),
            "crashed in sync"
        );
        assert!(
            admitted(&mixed, false, None, &start(None, false)),
            "interrupted, whoever began it"
        );
        assert!(
            admitted(&Record::new("db"), true, None, &start(None, false)),
            "nothing there"
        );
        assert!(
            !admitted(&copy(1), false, None, &start(Some(2), false)),
            "another line of writes"
        );
        assert!(
            !admitted(&copy(1), false, Some("/srv/db"), &start(Some(1), false)),
            "no mark"
        );
        assert!(
            !admitted(&Record::new("db"), false, None, &start(None, false)),
            "a lost record"
        );
        let empty_primary = |overwrite| copy(1).admits(false, None, &start(Some(1), overwrite), true);
        assert!(empty_primary(false).is_err() && empty_primary(true).is_ok());
        assert!(copy(1).admits(false, None, &fresh(1, true), true).is_err());
        for empty in [true, false] {
            assert!(
                !admitted(&own, empty, None, &start(Some(1), false)),
                "writes of its own, {empty}"
            );
            assert!(
                admitted(&own, empty, Some("/srv/db"), &start(None, true)),
                "told to"
            );
        }
    }

    #[test]
    fn a_parting_keeps_the_generation_that_was_shared_last_until_the_reunion() {
        let generation = |number| Generation([number; 16]);
        let mut record = copy(1);
        record.part(generation(2), "alone".into());
        assert_eq!(
            (record.generation, record.base),
            (Some(generation(2)), Some(generation(1)))
        );
        record.part(generation(3), "again".into());
        assert_eq!(
            (record.generation, record.base),
            (Some(generation(2)), Some(generation(1)))
        );
        record.join(generation(4));
        assert_eq!((record.generation, record.base), (Some(generation(4)), None));
        assert!(record.open && !record.peer_lacks_data);
        record.begin_copy(generation(5), false);
        assert!(record.bars_primary().is_some());
        record.part(generation(6), "forced".into());
        assert_eq!(record.base, None, "a mixed copy descends from nothing");
    }

    #[test]
    fn only_an_up_to_date_clean_copy_or_the_last_alone_may_become_primary() {
        assert_eq!(Record::new("db").bars_primary(), None);
        assert_eq!(copy(1).bars_primary(), None);
        assert!(
            Record {
                open: true,
                ..copy(1)
            }
            .bars_primary()
            .is_some()
        );
        assert_eq!(
            Record {
                open: true,
                peer_lacks_data: true,
                ..copy(1)
            }
            .bars_primary(),
            None
        );
        for standing in [Standing::Outdated, Standing::Inconsistent, Standing::Verify] {
            assert!(
                Record {
                    standing,
                    peer_lacks_data: true,
                    ..copy(1)
                }
                .bars_primary()
                .is_some()
            );
        }
    }

    #[test]
    fn generations_are_printed_and_read_as_32_digits() {
        let generation = Generation::random().unwrap();
        assert_eq!(generation.to_string().parse::<Generation>().unwrap(), generation);
        for bad in ["", "+0000000000000000000000000000000", "0123"] {
            assert!(bad.parse::<Generation>().is_err(), "{bad}");
        }
    }
}
