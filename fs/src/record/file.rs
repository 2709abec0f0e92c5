//! The file that the record lies in: replaced atomically, written beside, synced, renamed, and the directory
//! synced.

use super::{BadVolumeCopy, CopyKind, FORMAT, Record};
use crate::backing::BackingError;
use crate::control::status::Standing;
use crate::wire::message::Generation;
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub(super) const FILE: &str = "record.json";
const TEMPORARY: &str = "record.json.new";

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
    /// Of a version that this one does not know. It is never overwritten.
    #[error("{path} is a record whose format is {format}; this version knows those up to {FORMAT}")]
    Newer {
        /// The file, or the directory.
        path: PathBuf,
        /// What it says.
        format: u32,
    },
    /// The copy for the volume cannot be made.
    #[error(transparent)]
    TooLong(BadVolumeCopy),
    /// The copy on the volume cannot be read or written.
    #[error(transparent)]
    Volume(#[from] BackingError),
    /// The state directory, or a volume, of another module.
    #[error("{path} belongs to module {found}, not to {wanted}; give each module its own")]
    OtherModule {
        /// Which.
        path: PathBuf,
        /// In the record.
        found: String,
        /// In the configuration.
        wanted: String,
    },
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

    /// Reads the record; none when there never was one, or the state directory was lost.
    pub fn load(&self) -> Result<Option<Record>, RecordError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.directory, FILE, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.system("open", errno.into())),
        };
        let mut text = String::new();
        // A record is a few hundred bytes; a limit keeps a wrong file from filling the memory.
        File::from(file)
            .take(64 << 10)
            .read_to_string(&mut text)
            .map_err(|source| self.system("read", source))?;
        let record = Record::parse(text.as_bytes()).map_err(|error| error.at(&self.path))?;
        if record.module != self.module {
            return Err(RecordError::OtherModule {
                path: self.path.clone(),
                found: record.module,
                wanted: self.module.clone(),
            });
        }
        Ok(Some(record))
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

/// The first format: no revision, no role, no map, no history.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FormatOne {
    #[serde(rename = "format")]
    _format: u32,
    module: String,
    generation: Option<Generation>,
    standing: Standing,
    open: bool,
    peer_lacks_data: bool,
    #[serde(default)]
    base: Option<Generation>,
    note: Option<String>,
}

impl From<FormatOne> for Record {
    /// What is not known is taken for the worse: there is no map, the machine was restarted, syncs were in
    /// memory only. That the peer stayed is not: the first format was closed by the end of both only.
    fn from(old: FormatOne) -> Self {
        Record {
            generation: old.generation,
            base: old.base,
            standing: old.standing,
            copy: (old.standing == Standing::Inconsistent).then_some(CopyKind::Whole),
            open: old.open,
            peer_lacks_data: old.peer_lacks_data,
            note: old.note,
            changed_alone: old.peer_lacks_data,
            ..Record::new(&old.module)
        }
    }
}

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// They are of a version that this one does not know.
    #[error("its format is {0}, this version knows those up to {FORMAT}")]
    Format(u32),
    /// They are nothing.
    #[error("{0}")]
    Damaged(String),
}

impl BadRecord {
    pub(super) fn at(self, path: &Path) -> RecordError {
        let path = path.to_owned();
        match self {
            BadRecord::Format(format) => RecordError::Newer { path, format },
            BadRecord::Damaged(problem) => RecordError::Unreadable { path, problem },
        }
    }
}

impl Record {
    /// Reads what lies in the state directory, of any format up to the present one.
    ///
    /// # Errors
    /// [`BadRecord`]; of the two, only damaged bytes may ever be overwritten.
    pub fn parse(text: &[u8]) -> Result<Self, BadRecord> {
        #[derive(Deserialize)]
        struct AnyFormat {
            format: u32,
        }
        let damaged = |error: serde_json::Error| BadRecord::Damaged(error.to_string());
        let AnyFormat { format } = serde_json::from_slice(text).map_err(damaged)?;
        match format {
            1 => Ok(serde_json::from_slice::<FormatOne>(text).map_err(damaged)?.into()),
            2 | FORMAT => Ok(serde_json::from_slice::<Record>(text)
                .map_err(damaged)?
                .upgraded(format)),
            other => Err(BadRecord::Format(other)),
        }
    }
}
