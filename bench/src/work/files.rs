//! Preparing single files.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

const CHUNK_BYTES: usize = 1 << 20;

/// `syncfs(2)`.
///
/// # Errors
/// When it cannot be written.
pub fn settle(directory: &Path) -> Result<()> {
    let open = File::open(directory).with_context(|| format!("cannot open {}", directory.display()))?;
    rustix::fs::syncfs(&open).with_context(|| format!("cannot write {} back", directory.display()))
}

/// Removes whatever is there.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// Writes the file, unless it has this size. What is written differs from block to block, so that nothing on the way
/// can make it smaller.
///
/// # Errors
/// When it cannot be written.
pub fn fill(path: &Path, bytes: u64) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|found| found.len() == bytes) {
        return Ok(());
    }
    let filled = || -> io::Result<()> {
        let mut file = File::create(path)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut left = bytes;
        let mut state = 1;
        while left > 0 {
            scramble(&mut chunk, &mut state);
            let length = (left as usize).min(chunk.len());
            file.write_all(&chunk[..length])?;
            left -= length as u64;
        }
        file.sync_all()
    };
    filled().with_context(|| format!("cannot fill {}", path.display()))
}

/// Fills a buffer with bytes that do not repeat: a xorshift generator (Marsaglia 2003).
pub fn scramble(buffer: &mut [u8], state: &mut u64) {
    for word in buffer.chunks_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
}

/// Reads it to its end.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<()> {
    let read = || -> io::Result<()> {
        let mut file = File::open(path)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        while file.read(&mut chunk)? > 0 {}
        Ok(())
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_file_has_its_size_and_is_not_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let bytes = CHUNK_BYTES as u64 + 5;
        fill(&path, bytes).unwrap();
        let first = std::fs::metadata(&path).unwrap();
        assert_eq!(first.len(), bytes);
        fill(&path, bytes).unwrap();
        let again = std::fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(again, first.modified().unwrap());
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
