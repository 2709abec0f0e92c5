//! Where labs are kept on disk, and which there are.

use crate::error::{Attempt, Result, refused};
use crate::mount_points;
use crate::removal;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Overrides the place where all labs are kept.
pub const BASE_VARIABLE: &str = "SIDEKICK_LAB_DIRECTORY";

/// Not below `/run` or `/tmp`: the hosts' disks live here, and a tmpfs is no ext4.
const BASE: &str = "/var/lib/sidekick-lab";

/// Names become parts of paths and of interface names, which have 15 bytes, `to-` included.
const NAME_BYTES_MAX: usize = 12;

/// The directory that holds one directory per lab.
pub fn base() -> PathBuf {
    std::env::var_os(BASE_VARIABLE).map_or_else(|| BASE.into(), PathBuf::from)
}

/// The directory of one lab, whether it exists or not.
///
/// # Errors
/// When the name cannot be one.
pub fn of_lab(name: &str) -> Result<PathBuf> {
    check_name("lab", name, 40)?;
    Ok(base().join(name))
}

/// The names of all labs that have a directory.
pub fn all_labs() -> Result<Vec<String>> {
    let base = base();
    let entries = match fs::read_dir(&base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).on("list", &base),
    };
    let mut names: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Makes the directory of a lab; false when it is there.
///
/// # Errors
/// When the name cannot be one or the system refuses.
pub fn make(name: &str) -> Result<bool> {
    make_below(&base(), &of_lab(name)?)
}

fn make_below(base: &Path, directory: &Path) -> Result<bool> {
    loop {
        // The end of what was the last lab may take the base away at any point in between.
        match fs::create_dir_all(base) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !base.is_file() => continue,
            made => made.on("make the directory", base)?,
        }
        match fs::create_dir(directory) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).on("make the directory", directory),
        }
    }
}

/// Removes what a lab has on disk, once nothing of it runs any more.
///
/// # Errors
/// When something cannot be removed.
pub fn remove(lab_directory: &Path) -> Result<()> {
    mount_points::release(lab_directory)?;
    removal::remove_tree(lab_directory)?;
    // Stays while there are other labs.
    let _ = fs::remove_dir(base());
    Ok(())
}

/// Refuses what cannot be the name of a host.
pub fn check_host_name(name: &str) -> Result<()> {
    check_name("host", name, NAME_BYTES_MAX)
}

fn check_name(kind: &str, name: &str, bytes_max: usize) -> Result<()> {
    let fits = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= bytes_max
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fits {
        return Ok(());
    }
    refused(format!(
        "{name:?} cannot be the name of a {kind}: use 1 to {bytes_max} letters, digits or '-'"
    ))
}

/// The path of a directory to be mirrored as everybody writes it.
///
/// # Errors
/// When it is not absolute, has `.` or `..`, or is the root.
pub fn plain(dir: &Path) -> Result<PathBuf> {
    use std::path::Component;
    let parts: PathBuf = dir.components().collect();
    let is_plain = dir.is_absolute()
        && parts.parent().is_some()
        && parts
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if is_plain {
        return Ok(parts);
    }
    refused(format!("{} is not an absolute path without '..'", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_made_while_the_last_one_takes_the_base_away() {
        let outer = tempfile::tempdir().unwrap();
        let base = outer.path().join("labs");
        std::thread::scope(|scope| {
            for name in ["one", "two", "three"] {
                let base = &base;
                scope.spawn(move || {
                    let directory = base.join(name);
                    for _ in 0..2000 {
                        assert!(make_below(base, &directory).unwrap());
                        fs::remove_dir(&directory).unwrap();
                        let _ = fs::remove_dir(base);
                    }
                });
            }
        });
        assert!(!base.exists());
    }
}
