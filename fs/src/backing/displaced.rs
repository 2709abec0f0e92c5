//! Where a copy puts aside what has a name here and not on the source.
//!
//! Nothing is removed while names are brought over: what is in the way of one name may be wanted under another a
//! moment later. It waits in our own directory, where no listing shows it, and is removed when all names are there.

use super::abilities::reserved_directory;
use super::error::BackingError;
use super::open::{Access, Opened};
use super::store::{Root, Store, open_name};
use super::walk::RESERVED;
use rustix::fs::{AtFlags, FileType, Mode, RawDir, RenameFlags, SeekFrom};
use rustix::io::{Errno, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// In our own directory: what a copy may want again.
pub(super) const DISPLACED: &[u8] = b"displaced";
/// In our own directory: what was excluded and in the way. Nothing wants it again.
pub(super) const LEFTOVERS: &[u8] = b"leftovers";
const LISTING_BYTES: usize = 32 << 10;

/// The next name to try. What a predecessor left has names from the same sequence.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Held while something is removed: the end of a copy and the background would find entries of each other gone.
static CLEARING: Mutex<()> = Mutex::new(());

/// The directory in which displaced entries wait, of one replicated directory.
pub(super) struct Displaced {
    directory: Opened,
}

impl Displaced {
    /// Makes it when it is absent.
    pub(super) fn make(root: &Root, name: &[u8]) -> Result<Self> {
        let reserved = reserved_directory(root)?;
        match rustix::fs::mkdirat(reserved.fd(), name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let directory = open_name(reserved.fd(), name)?;
        Ok(Displaced { directory })
    }

    /// `None` when it is absent.
    fn find(root: &Root, name: &[u8]) -> Result<Option<Self>> {
        let found = open_name(root.node().fd(), RESERVED).and_then(|own| open_name(own.fd(), name));
        match found {
            Ok(directory) => Ok(Some(Displaced { directory })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Moves `name` of `from` in here, whatever it is.
    pub(super) fn take(&self, from: &Opened, name: &[u8]) -> Result<()> {
        let mut step = 1_u64;
        loop {
            let number = NEXT.fetch_add(step, Ordering::Relaxed).to_string();
            let (here, flags) = (self.directory.fd(), RenameFlags::NOREPLACE);
            match rustix::fs::renameat_with(from.fd(), name, here, number, flags) {
                // Ever longer steps: a predecessor may have left a million in a row.
                Err(Errno::EXIST) => step = (step * 2).min(1 << 32),
                result => return result,
            }
        }
    }

    /// Removes everything in here. Directories are removed from this level only: what a directory holds is
    /// moved up to it first, so that no depth is too great.
    fn clear(&self) -> Result<()> {
        let here = self.directory.reopen(Access::Read)?;
        while each_entry(&here, |name, kind| {
            if kind == FileType::Directory || !unlink(&here, name)? {
                self.remove_directory(&here, name)?;
            }
            Ok(())
        })? {}
        Ok(())
    }

    fn remove_directory(&self, here: &Opened, name: &[u8]) -> Result<()> {
        if remove_empty(here, name)? {
            return Ok(());
        }
        let directory = open_name(here.fd(), name)?.reopen(Access::Read)?;
        loop {
            let any = each_entry(&directory, |below, kind| {
                let is_directory = kind == FileType::Directory || !unlink(&directory, below)?;
                if is_directory && !remove_empty(&directory, below)? {
                    self.take(&directory, below)?;
                }
                Ok(())
            })?;
            if remove_empty(here, name)? {
                return Ok(());
            }
            if !any {
                return Err(Errno::NOTEMPTY);
            }
        }
    }
}

impl Store {
    /// Removes everything that was put aside in every replicated directory, by this process or one before.
    /// Repeating it changes nothing. Follows no symbolic link and enters no mount; takes as long as the file
    /// system needs to free what was the last name of its inode.
    ///
    /// # Errors
    /// The first that the kernel gives; what is left then can be removed later.
    pub fn remove_displaced(&self) -> std::result::Result<(), BackingError> {
        for root in self.roots() {
            for name in [DISPLACED, LEFTOVERS] {
                clear(root, name).map_err(|errno| BackingError::Directory {
                    attempt: "remove what was put aside in",
                    directory: root.name(),
                    source: errno,
                })?;
            }
        }
        Ok(())
    }
}

fn clear(root: &Root, name: &[u8]) -> Result<()> {
    // A panic in one leaves what the next one removes.
    let _one_at_a_time = CLEARING.lock().unwrap_or_else(PoisonError::into_inner);
    match Displaced::find(root, name)? {
        Some(displaced) => displaced.clear(),
        None => Ok(()),
    }
}

/// Removes what was excluded and in the way. What fails is left to the next time.
pub(super) fn clear_leftovers(roots: &[Root]) {
    for root in roots {
        if let Err(errno) = clear(root, LEFTOVERS) {
            tracing::warn!(directory = root.name(), %errno, "leftovers of what is excluded cannot be removed yet");
        }
    }
}

/// Calls `visit` for each entry of a readable directory but the dots; true if there was any.
fn each_entry(directory: &Opened, mut visit: impl FnMut(&[u8], FileType) -> Result<()>) -> Result<bool> {
    rustix::fs::seek(directory.fd(), SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(LISTING_BYTES);
    let mut entries = RawDir::new(directory.fd(), buffer.spare_capacity_mut());
    let mut any = false;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            any = true;
            visit(name, entry.file_type())?;
        }
    }
    Ok(any)
}

/// False when it is a directory.
fn unlink(directory: &Opened, name: &[u8]) -> Result<bool> {
    match rustix::fs::unlinkat(directory.fd(), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// False when it holds something.
fn remove_empty(directory: &Opened, name: &[u8]) -> Result<bool> {
    match rustix::fs::unlinkat(directory.fd(), name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}
