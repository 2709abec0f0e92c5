//! Many files of 4 KiB, a thousand to a directory: made, asked about, removed.

use super::Rate;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILE_BYTES: usize = 4096;
const FILES_PER_DIRECTORY: u64 = 1000;

/// Create, write, close, until all are made or the time is over.
///
/// # Errors
/// When one cannot be made.
pub fn create(directory: &Path, count: u64, limit: Duration) -> Result<Rate> {
    let content = [0x5a; FILE_BYTES];
    let start = Instant::now();
    let mut made = 0;
    while made < count && start.elapsed() < limit {
        let below = directory.join((made / FILES_PER_DIRECTORY).to_string());
        if made % FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&below).with_context(|| format!("cannot make {}", below.display()))?;
        }
        let path = below.join(format!("file-{made}"));
        File::create_new(&path)
            .and_then(|mut file| file.write_all(&content))
            .with_context(|| format!("cannot make {}", path.display()))?;
        made += 1;
    }
    Ok(Rate {
        count: made,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// `lstat(2)` of each, again and again until the time is over, after a first time that does not count.
///
/// # Errors
/// When one is missing.
pub fn stat(directory: &Path, limit: Duration) -> Result<Rate> {
    let paths = paths(directory)?;
    let all = || -> Result<()> {
        for path in &paths {
            fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
        }
        Ok(())
    };
    all()?;
    let start = Instant::now();
    let mut count = 0;
    loop {
        all()?;
        count += paths.len() as u64;
        if start.elapsed() >= limit {
            break;
        }
    }
    Ok(Rate {
        count,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// `unlink(2)` of each, in the order of their making, until all are gone or the time is over.
///
/// # Errors
/// When one cannot be removed.
pub fn unlink(directory: &Path, limit: Duration) -> Result<Rate> {
    let paths = paths(directory)?;
    let start = Instant::now();
    let mut removed = 0;
    for path in &paths {
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
        removed += 1;
        if start.elapsed() >= limit {
            break;
        }
    }
    Ok(Rate {
        count: removed,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// All files, in the order of their making.
fn paths(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for below in fs::read_dir(directory)? {
            for file in fs::read_dir(below?.path())? {
                paths.push(file?.path());
            }
        }
        Ok(paths)
    };
    let mut paths = listed().with_context(|| format!("cannot list {}", directory.display()))?;
    paths.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.trim_start_matches("file-")
            .parse::<u64>()
            .unwrap_or_default()
    });
    anyhow::ensure!(!paths.is_empty(), "no files in {}", directory.display());
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_asked_about_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let files = directory.path().join("files");
        let long = Duration::from_secs(60);
        assert_eq!(create(&files, 1003, long).unwrap().count, 1003);
        assert_eq!(paths(&files).unwrap().len(), 1003);
        assert_eq!(stat(&files, Duration::ZERO).unwrap().count, 1003);
        assert_eq!(unlink(&files, long).unwrap().count, 1003);
        assert!(stat(&files, Duration::ZERO).is_err());
    }

    #[test]
    fn work_ends_when_its_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let made = create(directory.path(), 1000, Duration::ZERO).unwrap();
        assert_eq!(made.count, 0);
    }
}
