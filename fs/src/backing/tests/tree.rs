//! A whole directory in words, so that two can be compared.

use crate::backing::RESERVED;
use crate::hash::HashMap;
use rustix::fs::{Advice, SeekFrom};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One line for each name, in order: path, type and mode, owner, links and the first name of the same inode, size,
/// mtime, device, all extended attributes, data and holes. Our own directory and attributes are left out.
pub(crate) fn tree_of(top: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut first_names = HashMap::default();
    // Not by recursion: trees may be deep.
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let here = top.join(&path);
        let status = std::fs::symlink_metadata(&here).unwrap();
        let links = if status.is_dir() {
            "directory".to_owned()
        } else {
            let first = first_names.entry(status.ino()).or_insert_with(|| path.clone());
            format!("{} links, first {first:?}", status.nlink())
        };
        lines.push(format!(
            "{path:?} {:o} {}:{} {links} mtime {}.{:09} rdev {} {:?} {}",
            status.mode(),
            status.uid(),
            status.gid(),
            status.mtime(),
            status.mtime_nsec(),
            status.rdev(),
            xattrs_of(&here),
            content_of(&here, &status),
        ));
        if status.is_dir() {
            let names = std::fs::read_dir(&here)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            let shown = names.filter(|name| !path.as_os_str().is_empty() || name.as_bytes() != RESERVED);
            let mut below: Vec<_> = shown.map(|name| path.join(name)).collect();
            below.sort();
            waiting.extend(below.into_iter().rev());
        }
    }
    lines
}

/// As [`tree_of`], whatever is a hole and whatever is written zeroes.
pub(crate) fn tree_without_holes_of(top: &Path) -> Vec<String> {
    let without = |line: String| match line.rsplit_once(" holes ") {
        Some((line, _)) => line.to_owned(),
        None => line,
    };
    tree_of(top).into_iter().map(without).collect()
}

pub(crate) fn xattrs_of(path: &Path) -> Vec<(String, Vec<u8>)> {
    let get = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        value
    };
    let mut list = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let mut all: Vec<_> = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.sidekick."))
        .map(|name| (name.escape_ascii().to_string(), get(name)))
        .collect();
    all.sort();
    all
}

fn content_of(path: &Path, status: &std::fs::Metadata) -> String {
    if status.is_symlink() {
        return format!("to {:?}", std::fs::read_link(path).unwrap());
    }
    if !status.is_file() {
        return String::new();
    }
    let holes = holes_of(path);
    let data = blake3::hash(&std::fs::read(path).unwrap());
    format!("size {} {data} holes {holes:?}", status.size())
}

/// Where data and holes begin. What was allocated and never written is a hole, whether it has been read or not.
pub(crate) fn holes_of(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    file.sync_data().unwrap();
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let mut found = Vec::new();
    let mut here = 0;
    while let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(here)) {
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
        found.push((data, hole));
        here = hole;
    }
    found
}
