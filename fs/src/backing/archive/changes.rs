//! `changes.jsonl`: what this copy's map says may differ from the other one, with paths. It names at least all that was
//! changed apart; what both have all the same may be in it.
//!
//! The first line says whether that is known. The others are about one path each; a path may have several.
//!
//! | `change` | it says |
//! |---|---|
//! | `new` | the other copy never had it |
//! | `data` | in these `ranges` of bytes, from and up to; without any, the file was cut |
//! | `attributes` | owner, mode, times or extended attributes |
//! | `listing` | of a directory: any name that this copy alone has may be new |
//! | `moved` | it was at `from` when the two parted; without `from`, in a directory that is gone |
//! | `name` | the name leads to something else than it did |
//! | `gone` | the name is no more: removed, or moved away |

use super::{ArchiveError, Lines, Visitor, failed, walk};
use crate::backing::store::{Root, Store};
use crate::dirty::store::{Saved, SavedNode};
use crate::dirty::{Content, Place};
use crate::hash::HashMap;
use crate::operation::InodeId;
use crate::wire::survey::Spot;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::num::NonZeroU64;

/// What a list is made of.
#[derive(Debug, Clone, Copy)]
pub struct Changes<'a> {
    /// The map of the time in which this copy was changed.
    pub map: &'a Saved,
    /// The unit of its extents.
    pub extent_bytes: NonZeroU64,
}

#[derive(Serialize)]
struct Head {
    known: bool,
}

#[derive(Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
enum Change {
    New,
    Data {
        ranges: Vec<(u64, u64)>,
    },
    Attributes,
    Listing,
    Moved {
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    Name,
    Gone,
}

/// Writes the list of the replicated directory `index`.
pub(super) fn list(
    store: &Store,
    index: usize,
    changes: Option<&Changes<'_>>,
    lines: &mut Lines,
) -> Result<(), ArchiveError> {
    let Some(changes) = changes.filter(|changes| !changes.map.everything) else {
        return lines.put(&Head { known: false });
    };
    lines.put(&Head { known: true })?;
    let places = Places::find(store, index, changes.map)?;
    places.list_nodes(changes, lines)?;
    places.list_names(store, changes.map, lines)
}

/// Where what is marked lies.
struct Places {
    /// By path.
    found: BTreeMap<Vec<u8>, Found>,
    /// Of the directories among them.
    directories: HashMap<InodeId, Vec<u8>>,
}

struct Found {
    inode: InodeId,
    size: u64,
    kind: FileType,
}

impl Places {
    /// An inode is known again by its number, as nothing changes meanwhile.
    fn find(store: &Store, index: usize, map: &Saved) -> Result<Places, ArchiveError> {
        let root = store.root(index);
        let mut wanted: HashMap<u64, InodeId> = HashMap::default();
        for (inode, node) in map.nodes.iter().filter(|(_, node)| node.root as usize == index) {
            let status = store.open_spot(&spot(node)).and_then(|opened| opened.status());
            match status {
                Ok(status) => {
                    wanted.insert(status.st_ino, *inode);
                }
                // What is gone has no path.
                Err(Errno::STALE) => {}
                Err(errno) => return Err(failed("look for", inode.to_string().as_bytes(), errno)),
            }
        }
        let mut finder = Finder {
            wanted,
            found: BTreeMap::new(),
        };
        finder.top(root)?;
        walk(root.mount.as_fd(), root.device, &mut finder)?;
        let found = finder.found;
        let is_directory = |(_, found): &(&Vec<u8>, &Found)| found.kind == FileType::Directory;
        let directories = found.iter().filter(is_directory);
        Ok(Places {
            directories: directories
                .map(|(path, found)| (found.inode, path.clone()))
                .collect(),
            found,
        })
    }

    fn list_nodes(&self, changes: &Changes<'_>, lines: &mut Lines) -> Result<(), ArchiveError> {
        let map = changes.map;
        for (path, found) in &self.found {
            let Some(node) = map.nodes.get(&found.inode) else {
                continue;
            };
            match &node.content {
                Content::Fresh => {
                    lines.tell(path, Change::New)?;
                    continue;
                }
                Content::Whole => match found.kind {
                    FileType::Directory => lines.tell(path, Change::Listing)?,
                    FileType::RegularFile => {
                        let ranges = (found.size > 0).then_some((0, found.size));
                        let ranges = ranges.into_iter().collect();
                        lines.tell(path, Change::Data { ranges })?;
                    }
                    // What it is, it has been from the beginning.
                    _ => {}
                },
                Content::Extents(extents) if !extents.is_empty() => {
                    let ranges = extents.byte_ranges(changes.extent_bytes, found.size);
                    let ranges = ranges.map(|range| (range.start, range.end)).collect();
                    lines.tell(path, Change::Data { ranges })?;
                }
                Content::Extents(_) => {}
            }
            if map.additions.contains(&found.inode) {
                lines.tell(path, Change::Listing)?;
            }
            if node.attributes {
                lines.tell(path, Change::Attributes)?;
            }
            if let Some(place) = node.place.as_ref().filter(|_| !map.names_moved) {
                self.list_move(path, found.inode, place, lines)?;
            }
        }
        Ok(())
    }

    fn list_move(
        &self,
        path: &[u8],
        inode: InodeId,
        place: &Place,
        lines: &mut Lines,
    ) -> Result<(), ArchiveError> {
        let from = self
            .directories
            .get(&place.parent)
            .map(|directory| below(directory, place.name.as_bytes()));
        let has_it_still = |from: &Vec<u8>| self.found.get(from).is_some_and(|found| found.inode == inode);
        if from.as_ref().is_some_and(has_it_still) {
            return Ok(());
        }
        let from = from.map(|from| String::from_utf8_lossy(&from).into_owned());
        lines.tell(path, Change::Moved { from })
    }

    fn list_names(&self, store: &Store, map: &Saved, lines: &mut Lines) -> Result<(), ArchiveError> {
        for (directory, found) in self
            .found
            .iter()
            .filter(|(_, found)| found.kind == FileType::Directory)
        {
            let (Some(names), Some(node)) = (map.names.get(&found.inode), map.nodes.get(&found.inode)) else {
                continue;
            };
            let opened = store
                .open_spot(&spot(node))
                .map_err(|errno| failed("open", directory, errno))?;
            for name in names {
                let path = below(directory, name.as_bytes());
                match rustix::fs::statat(&*opened.descriptor, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => lines.tell(&path, Change::Name)?,
                    Err(Errno::NOENT) => lines.tell(&path, Change::Gone)?,
                    Err(errno) => return Err(failed("look at", &path, errno)),
                }
            }
        }
        Ok(())
    }
}

fn spot(node: &SavedNode) -> Spot {
    Spot {
        root: node.root,
        handle: Some(node.handle.clone()),
    }
}

fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

struct Finder {
    wanted: HashMap<u64, InodeId>,
    found: BTreeMap<Vec<u8>, Found>,
}

impl Finder {
    /// The replicated directory itself, whose path is empty.
    fn top(&mut self, root: &Root) -> Result<(), ArchiveError> {
        let status = rustix::fs::fstat(&root.mount).map_err(|errno| failed("look at", b".", errno))?;
        self.see(b"", &status);
        Ok(())
    }

    fn see(&mut self, path: &[u8], status: &Stat) {
        if let Some(inode) = self.wanted.get(&status.st_ino) {
            let found = Found {
                inode: *inode,
                size: status.st_size as u64,
                kind: FileType::from_raw_mode(status.st_mode),
            };
            self.found.insert(path.to_vec(), found);
        }
    }
}

impl Visitor for Finder {
    fn enter(&mut self, _: BorrowedFd<'_>, _: &CStr, path: &[u8], status: &Stat) -> Result<(), ArchiveError> {
        self.see(path, status);
        Ok(())
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &[u8], _: &Stat) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn entry(&mut self, _: BorrowedFd<'_>, _: &CStr, path: &[u8], status: &Stat) -> Result<(), ArchiveError> {
        self.see(path, status);
        Ok(())
    }
}
