//! The data and the holes of two files.

use crate::error::{Attempt, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;
use std::path::Path;

const PIECE_BYTES: usize = 1 << 20;
/// Longest run of zeroes that counts as a hole.
const ZEROED_BYTES_MAX: u64 = 64 << 10;

/// A range that is data, not hole.
type Extent = (u64, u64);

/// Compares two files of equal size; gives the number of bytes read on each side, and what differs.
pub(super) fn compare(
    first: &OwnedFd,
    second: &OwnedFd,
    size: u64,
    path: &Path,
) -> Result<(u64, Vec<String>)> {
    let mut found = Vec::new();
    let mut maps = (data_map(first, size, path)?, data_map(second, size, path)?);
    if maps.0 != maps.1 {
        // Of what was allocated and not written, the kernel counts as data whatever its cache holds pages of:
        // somebody has read it on one side.
        settle(first, path)?;
        settle(second, path)?;
        maps = (data_map(first, size, path)?, data_map(second, size, path)?);
    }
    let (map, other_map) = maps;
    if !is_of_the_file_system(first, &only_in(&map, &other_map), path)?
        || !is_of_the_file_system(second, &only_in(&other_map, &map), path)?
    {
        found.push(format!(
            "holes: data at {} and {}",
            shown(&map),
            shown(&other_map)
        ));
    }
    let mut compared = 0;
    let (mut buffer, mut other_buffer) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    // Holes of both read as zeroes: only what is data on a side can differ.
    for (start, end) in union(&map, &other_map) {
        let mut offset = start;
        while offset < end {
            let length = PIECE_BYTES.min((end - offset) as usize);
            read(first.as_fd(), &mut buffer[..length], offset, path)?;
            read(second.as_fd(), &mut other_buffer[..length], offset, path)?;
            if let Some(place) = (0..length).find(|&place| buffer[place] != other_buffer[place]) {
                let (one, other) = (buffer[place], other_buffer[place]);
                let at = offset + place as u64;
                found.push(format!("data from byte {at}: {one:#04x} and {other:#04x}"));
                return Ok((compared, found));
            }
            compared += length as u64;
            offset += length as u64;
        }
    }
    Ok((compared, found))
}

/// Whether data that the other side has a hole for is zeroes that the file system has put there by itself. Instead of
/// splitting a short extent that was allocated and never written, ext4 may fill it (`extent_max_zeroout_kb`, 32 unless
/// changed, several beside each other): each node's does so as it likes.
fn is_of_the_file_system(file: &OwnedFd, extents: &[Extent], path: &Path) -> Result<bool> {
    let mut buffer = Vec::new();
    for (start, end) in extents {
        if end - start > ZEROED_BYTES_MAX {
            return Ok(false);
        }
        buffer.resize((end - start) as usize, 0);
        read(file.as_fd(), &mut buffer, *start, path)?;
        if buffer.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Fills the buffer; what is behind the end of the file stays zero (a file may shrink while it is read).
fn read(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64, path: &Path) -> Result<()> {
    buffer.fill(0);
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => return Ok(()),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).on("read", path),
        }
    }
    Ok(())
}

/// What is cached together with something dirty does not leave the cache.
fn settle(file: &OwnedFd, path: &Path) -> Result<()> {
    rustix::fs::fdatasync(file).on("write back", path)?;
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed).on("drop the cached pages of", path)
}

fn data_map(file: &OwnedFd, size: u64, path: &Path) -> Result<Vec<Extent>> {
    let mut map = Vec::new();
    let mut offset = 0;
    while offset < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break, // a hole up to the end
            Err(error) => return Err(error).on("look for data in", path),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).on("look for holes in", path)?;
        map.push((start, end));
        offset = end;
    }
    Ok(map)
}

/// What of the first map the second does not have; joined where it touches.
fn only_in(map: &[Extent], other: &[Extent]) -> Vec<Extent> {
    let mut only = Vec::new();
    for (start, end) in map {
        let mut at = *start;
        for (covered, until) in other {
            if *until <= at || *covered >= *end {
                continue;
            }
            if *covered > at {
                only.push((at, *covered));
            }
            at = at.max(*until);
        }
        if at < *end {
            only.push((at, *end));
        }
    }
    union(&only, &[])
}

fn union(first: &[Extent], second: &[Extent]) -> Vec<Extent> {
    let mut all: Vec<Extent> = first.iter().chain(second).copied().collect();
    all.sort_unstable();
    let mut joined: Vec<Extent> = Vec::new();
    for (start, end) in all {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}

fn shown(map: &[Extent]) -> String {
    const SHOWN_MAX: usize = 8;
    let mut text: Vec<_> = map
        .iter()
        .take(SHOWN_MAX)
        .map(|(start, end)| format!("{start}..{end}"))
        .collect();
    if map.len() > SHOWN_MAX {
        text.push(format!("and {} more", map.len() - SHOWN_MAX));
    }
    format!("[{}]", text.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_one_side_has_is_found() {
        let map = [(0, 10), (20, 30)];
        assert_eq!(only_in(&map, &[]), map);
        assert_eq!(only_in(&map, &[(0, 100)]), []);
        assert_eq!(
            only_in(&map, &[(2, 4), (6, 22), (29, 40)]),
            [(0, 2), (4, 6), (22, 29)]
        );
    }

    #[test]
    fn short_runs_of_zeroes_are_the_file_systems_and_long_ones_or_data_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, data: &[u8]| {
            let path = dir.path().join(name);
            let written = std::fs::File::create_new(&path).unwrap();
            written.set_len(1 << 20).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&written, data, 4096).unwrap();
            OwnedFd::from(std::fs::File::open(path).unwrap())
        };
        let hole = file("hole", &[]);
        let differs = |other: &OwnedFd| !compare(&hole, other, 1 << 20, dir.path()).unwrap().1.is_empty();
        assert!(!differs(&file("zeroes", &[0; 8192])));
        assert!(differs(&file("many", &vec![0; 128 << 10])));
        assert!(differs(&file("data", &[1; 4096])));
    }

    #[test]
    fn extents_of_both_sides_are_joined() {
        assert_eq!(
            union(&[(0, 4), (8, 12)], &[(4, 6), (9, 10), (20, 21)]),
            [(0, 6), (8, 12), (20, 21)]
        );
    }
}
