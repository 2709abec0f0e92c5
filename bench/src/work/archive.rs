//! An archive of small files as source trees have them, and `tar` unpacking it.

use super::Rate;
use super::files::{remove, scramble};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const FILES_PER_DIRECTORY: u64 = 50;
/// Sizes go round these: most files are small, some are not.
const SIZES: [usize; 8] = [300, 900, 1500, 2500, 4000, 7000, 12_000, 40_000];
/// Between two looks at whether `tar` has ended.
const LOOK: Duration = Duration::from_millis(2);

/// Makes the archive.
///
/// # Errors
/// When the files or the archive cannot be written.
pub fn make(archive: &Path, count: u64) -> Result<()> {
    let tree = archive.with_extension("tree");
    let mut state = 7;
    for number in 0..count {
        let below = tree.join(format!("directory-{}", number / FILES_PER_DIRECTORY));
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&below).with_context(|| format!("cannot make {}", below.display()))?;
        }
        let mut content = vec![0; SIZES[(number % SIZES.len() as u64) as usize]];
        scramble(&mut content, &mut state);
        let path = below.join(format!("file-{number}"));
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let status = Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .args([tree.as_path(), Path::new(".")])
        .status()
        .context("cannot run tar")?;
    ensure!(status.success(), "tar ended with {status}");
    remove(&tree)
}

/// Unpacks it until the end, or until the time is over; counts the files that are there.
///
/// # Errors
/// When `tar` fails.
pub fn unpack(archive: &Path, directory: &Path, limit: Duration) -> Result<Rate> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let start = Instant::now();
    let mut tar = Command::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(directory)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot run tar")?;
    let seconds = loop {
        if let Some(status) = tar.try_wait().context("cannot wait for tar")? {
            let seconds = start.elapsed().as_secs_f64();
            ensure!(status.success(), "tar ended with {status}");
            break seconds;
        }
        if start.elapsed() >= limit {
            tar.kill().context("cannot end tar")?;
            tar.wait().context("cannot wait for tar")?;
            break start.elapsed().as_secs_f64();
        }
        std::thread::sleep(LOOK);
    };
    let count = files(directory).with_context(|| format!("cannot count in {}", directory.display()))?;
    if count == 0 {
        bail!("tar unpacked nothing within {limit:?}");
    }
    Ok(Rate { count, seconds })
}

fn files(directory: &Path) -> std::io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() {
            files(&entry.path())?
        } else {
            1
        };
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_comes_out_as_it_went_in() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("archive.tar");
        make(&archive, 120).unwrap();
        assert!(!archive.with_extension("tree").exists());
        let rate = unpack(&archive, &directory.path().join("out"), Duration::from_secs(60)).unwrap();
        assert_eq!(rate.count, 120);
    }
}
