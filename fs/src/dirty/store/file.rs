//! Where the durable map lies: its file, the one that is being made, and the one that was set aside.

use super::StoreError;
use redb::backends::FileBackend;
use redb::{DatabaseError, StorageBackend};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub(super) const FILE: &str = "dirty.redb";
const NEW: &str = "dirty.redb.new";
pub(super) const UNREADABLE: &str = "dirty.redb.unreadable";
const FLAGS: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// The file in `directory` with its path, if there is one.
pub(super) fn open(directory: &Path) -> Result<Option<(PathBuf, Backend)>, StoreError> {
    let path = directory.join(FILE);
    let file = match rustix::fs::openat(open_directory(directory)?, FILE, FLAGS, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(system("open", &path, errno)),
    };
    let length = file.metadata().map_err(|source| StoreError::System {
        attempt: "look at",
        path: path.clone(),
        source,
    })?;
    // redb would make a database of it.
    if length.len() == 0 {
        return Err(StoreError::Unreadable {
            path,
            problem: "it is empty".into(),
        });
    }
    let backend = backend(file, &path)?;
    Ok(Some((path, backend)))
}

/// Renames the file in `directory` so that it is kept and not read, and syncs the directory. None is none.
pub(super) fn set_aside(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(FILE);
    let directory = open_directory(directory)?;
    match rustix::fs::renameat(&directory, FILE, &directory, UNREADABLE) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(system("set aside", &path, errno)),
    }
    rustix::fs::fsync(&directory).map_err(|errno| system("sync the directory of", &path, errno))
}

/// A file without content, under a name that nobody reads until [`NewFile::keep`].
pub(super) fn create(directory: &Path) -> Result<NewFile, StoreError> {
    let path = directory.join(FILE);
    let directory = open_directory(directory)?;
    // Left by a process that was ended while it made one.
    match rustix::fs::unlinkat(&directory, NEW, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(system("remove an unfinished", &path, errno)),
    }
    let flags = FLAGS | OFlags::CREATE | OFlags::EXCL;
    let file = rustix::fs::openat(&directory, NEW, flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| system("make", &path, errno))?;
    Ok(NewFile {
        directory,
        file: File::from(file),
        path,
    })
}

/// A file that is being made.
pub(super) struct NewFile {
    directory: OwnedFd,
    file: File,
    path: PathBuf,
}

impl NewFile {
    /// What it will be called.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its content.
    pub(super) fn backend(&self) -> Result<Backend, StoreError> {
        let file = self.file.try_clone().map_err(|source| StoreError::System {
            attempt: "make",
            path: self.path.clone(),
            source,
        })?;
        backend(file, &self.path)
    }

    /// Gives it its name, for good: its content has been synced.
    pub(super) fn keep(self) -> Result<(), StoreError> {
        rustix::fs::renameat(&self.directory, NEW, &self.directory, FILE)
            .map_err(|errno| system("name", &self.path, errno))?;
        rustix::fs::fsync(&self.directory).map_err(|errno| system("sync the directory of", &self.path, errno))
    }
}

/// The file as redb reads and writes it.
#[derive(Debug)]
pub(super) struct Backend<F = FileBackend>(pub(super) F);

impl<F: StorageBackend> StorageBackend for Backend<F> {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.0.read(offset, len)
    }

    /// A greater length is durable when this returns: the head that is written next speaks of it, and a file that
    /// is shorter than its head says cannot be opened. It is rare, as it grows by a part of what it has.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let grows = len > self.0.len()?;
        self.0.set_len(len)?;
        match grows {
            true => self.0.sync_data(false),
            false => Ok(()),
        }
    }

    fn sync_data(&self, eventual: bool) -> io::Result<()> {
        self.0.sync_data(eventual)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

fn backend(file: File, path: &Path) -> Result<Backend, StoreError> {
    FileBackend::new(file).map(Backend).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse {
            path: path.to_owned(),
        },
        error => StoreError::System {
            attempt: "lock",
            path: path.to_owned(),
            source: io::Error::other(error),
        },
    })
}

fn open_directory(directory: &Path) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|errno| system("open the state directory", directory, errno))
}

fn system(attempt: &'static str, path: &Path, errno: Errno) -> StoreError {
    StoreError::System {
        attempt,
        path: path.to_owned(),
        source: errno.into(),
    }
}
