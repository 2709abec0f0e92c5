//! Removing big trees quickly.
//!
//! A file system that discards freed blocks at once waits for the device at every file that has data: about 2 ms
//! each on some virtual disks, a minute for what a test writes. The device takes many discards at a time.

use crate::error::{Attempt, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The threads do nothing but wait for the device.
const THREADS: usize = 16;
/// Names handed to a thread at a time.
const BATCH: usize = 64;

/// Removes a directory and everything in it. Links are not followed.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_tree(root: &Path) -> Result<()> {
    let files = Mutex::new(files_below(root));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(batch) = next_batch(&files) {
                    for file in batch {
                        // What stays is met again below, where its error is told.
                        let _ = fs::remove_file(file);
                    }
                }
            });
        }
    });
    fs::remove_dir_all(root).on("remove", root)
}

fn next_batch(files: &Mutex<Vec<PathBuf>>) -> Option<Vec<PathBuf>> {
    let mut files = files.lock().ok()?;
    let rest = files.len().saturating_sub(BATCH);
    Some(files.split_off(rest)).filter(|batch| !batch.is_empty())
}

/// All names that are no directories. What cannot be listed, as a path longer than the system takes, is left out.
fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_is_removed_and_what_its_links_name_is_not() {
        let holder = tempfile::tempdir().unwrap();
        let (root, kept) = (holder.path().join("root"), holder.path().join("kept"));
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), b"x").unwrap();
        symlink(&kept, root.join("a/link")).unwrap();
        for number in 0..500 {
            fs::write(root.join(format!("a/b/{number}")), b"x").unwrap();
        }
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        assert!(kept.join("file").exists());
        assert!(remove_tree(&root).is_err());
    }
}
