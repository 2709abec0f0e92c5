//! Directories that a lab mounts over inside its hosts. All hosts see the machine's own root file system, so a
//! directory that does not exist has to be made there; whoever made it removes it.

use crate::directory;
use crate::error::{Attempt, Result};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "mount-points.json";

/// What one lab uses and must remove.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MountPoints {
    used: Vec<PathBuf>,
    made: Vec<PathBuf>,
}

/// Makes `dir` with its parents where they are missing, and notes it for the lab.
///
/// # Errors
/// When a directory cannot be made.
pub fn provide(lab_directory: &Path, dir: &Path) -> Result<()> {
    let _lock = lock()?;
    let mut points = load(lab_directory)?;
    let mut missing: Vec<_> = dir.ancestors().take_while(|path| !path.exists()).collect();
    missing.reverse();
    points.used.push(dir.to_owned());
    points.made.extend(missing.iter().map(|path| path.to_path_buf()));
    // Noted first: what is noted and not made does no harm at the end.
    store(lab_directory, &points)?;
    for path in missing {
        fs::create_dir(path).on("make the mount point", path)?;
    }
    Ok(())
}

/// Removes what the lab made, unless another lab uses it, which then inherits the duty.
///
/// # Errors
/// When a directory cannot be removed for another reason than its use.
pub fn release(lab_directory: &Path) -> Result<()> {
    let _lock = lock()?;
    let points = load(lab_directory)?;
    for path in points.made.iter().rev() {
        if let Some(heir) = other_user(lab_directory, path)? {
            let mut inherited = load(&heir)?;
            inherited.made.insert(0, path.clone());
            store(&heir, &inherited)?;
            continue;
        }
        match fs::remove_dir(path) {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    // Somebody put something into it: it is no longer ours alone.
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) => {}
            Err(error) => return Err(error).on("remove the mount point", path),
        }
    }
    Ok(())
}

fn other_user(lab_directory: &Path, path: &Path) -> Result<Option<PathBuf>> {
    for name in directory::all_labs()? {
        let other = directory::base().join(name);
        if other != lab_directory && load(&other)?.used.iter().any(|used| used.starts_with(path)) {
            return Ok(Some(other));
        }
    }
    Ok(None)
}

/// Held while a lab's list and the directories are changed; all labs use the same one.
fn lock() -> Result<File> {
    let base = directory::base();
    let lock = File::open(&base).on("open", &base)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).on("lock", &base)?;
    Ok(lock)
}

fn load(lab_directory: &Path) -> Result<MountPoints> {
    let path = lab_directory.join(FILE);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(io::Error::from)
            .on("understand", &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(MountPoints::default()),
        Err(error) => Err(error).on("read", &path),
    }
}

fn store(lab_directory: &Path, points: &MountPoints) -> Result<()> {
    let path = lab_directory.join(FILE);
    serde_json::to_vec(points)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&path, text))
        .on("write", &path)
}
