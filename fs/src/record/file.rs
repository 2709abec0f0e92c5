//! The file that the record lies in: replaced atomically, written beside, synced, renamed, and the directory synced.

use super::{FORMAT, Record};
use rustix::fs::{AtFlags, Mode, OFlags};
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
