//! The target's side: executes what the source asks for, one request after the other.
//!
//! It decides nothing and knows no connection. It blocks for as long as the disk takes, so it runs on threads that
//! may; several at once for one copy, as the source sends nothing that collides.

use crate::backing::{CopyFailure, Store};
use crate::operation::{Errno, InodeId, Name};
use crate::wire::bulk::{NAMES_MAX, ToSource, ToTarget};
use crate::wire::limits;
use crate::wire::survey::{Sight, Spot};
use rustix::io::Errno as System;
use std::ops::ControlFlow;

/// Executes `request` and hands each answer to `answer`, in order: one, or for a list as many as it takes, as they
/// come. A failure is the last answer. `Open` is not executed but decided on by whoever reads the connection;
/// here it fails.
pub fn execute(store: &Store, request: &ToTarget, mut answer: impl FnMut(ToSource)) {
    let last = match request {
        ToTarget::Open(_) => Err(CopyFailure::new("open a copy that is open", System::PROTO)),
        ToTarget::List { directory, path } => list(store, *directory, path, &mut answer),
        ToTarget::Identify { nodes } => nodes
            .iter()
            .map(|node| store.identify(node))
            .collect::<Result<Vec<_>, _>>()
            .map(|handles| ToSource::Identified { handles }),
        ToTarget::Settle => settle(store),
        ToTarget::Place {
            directory,
            entries,
            sole,
            path,
        } => store
            .excluding_at(*directory, path)
            .map_err(|errno| CopyFailure::new(format!("find {directory}"), errno))
            .and_then(|excluding| store.place_names(*directory, entries, *sole, excluding.as_ref()))
            .map(|outcomes| ToSource::Placed { outcomes }),
        ToTarget::Names { directory } => names(store, directory, &mut answer),
        ToTarget::Survey { directory, names } => looked(store.survey(directory, names), "look at names"),
        ToTarget::Look { node } => looked(store.look_at(node).map(|sight| vec![sight]), "look at a node"),
        ToTarget::Sums { file, offset, length } => store
            .sums(file, *offset, *length)
            .map(|sums| ToSource::Summed { sums })
            .map_err(|errno| CopyFailure::new(format!("read {length} bytes at {offset} of a file"), errno)),
        ToTarget::Compare { blocks } => store.compare(blocks).map(|equal| ToSource::Compared { equal }),
        ToTarget::Data { inode, offset, data } => written(store.write_block(*inode, *offset, data), || {
            format!("write {} bytes at {offset} to {inode}", data.len())
        }),
        ToTarget::Hole {
            inode,
            offset,
            length,
        } => written(store.make_hole(*inode, *offset, *length), || {
            format!("make a hole of {length} bytes at {offset} in {inode}")
        }),
        ToTarget::Attributes { inode, attributes } => {
            written(store.set_all_attributes(*inode, attributes), || {
                format!("give {inode} its attributes")
            })
        }
    };
    answer(last.unwrap_or_else(|failure| ToSource::Failed {
        errno: failure.errno,
        reason: limits::text(failure.to_string()),
    }));
}

/// What was put aside goes, and everything is on disk: then the end of the copy has little left to do.
fn settle(store: &Store) -> Result<ToSource, CopyFailure> {
    store
        .remove_displaced()
        .map_err(|error| CopyFailure::new(format!("remove what was put aside ({error})"), System::IO))?;
    written(store.checkpoint(), || "sync the file systems".to_owned())
}

fn written(done: Result<(), Errno>, attempt: impl FnOnce() -> String) -> Result<ToSource, CopyFailure> {
    done.map(|()| ToSource::Written)
        .map_err(|errno| CopyFailure::new(attempt(), errno))
}

fn looked(sights: Result<Vec<Sight>, Errno>, attempt: &'static str) -> Result<ToSource, CopyFailure> {
    sights
        .map(|sights| ToSource::Surveyed { sights })
        .map_err(|errno| CopyFailure::new(attempt, errno))
}

/// As [`list`], of a directory that has no number.
fn names(
    store: &Store,
    directory: &Spot,
    answer: &mut impl FnMut(ToSource),
) -> Result<ToSource, CopyFailure> {
    let mut names = Vec::new();
    store
        .names_at(directory, |name| {
            names.push(name);
            if names.len() > NAMES_MAX {
                let rest = names.split_off(NAMES_MAX);
                let names = std::mem::replace(&mut names, rest);
                answer(ToSource::Listed { names, more: true });
            }
        })
        .map_err(|errno| CopyFailure::new("list a directory", errno))?;
    Ok(ToSource::Listed { names, more: false })
}

/// All names but the dots and the reserved one; gives the last answer.
fn list(
    store: &Store,
    directory: InodeId,
    path: &[u8],
    answer: &mut impl FnMut(ToSource),
) -> Result<ToSource, CopyFailure> {
    let fail = |errno| CopyFailure::new(format!("list {directory}"), errno);
    let mut names = Vec::new();
    let mut wrong = None;
    let listing = store.open_directory(directory).map_err(fail)?;
    let excluding = store.excluding_at(directory, path).map_err(fail)?;
    let mut failed = None;
    let read = listing.read(0, |entry| {
        if matches!(entry.name, b"." | b"..") {
            return ControlFlow::Continue(());
        }
        // What is excluded is this node's alone.
        match store.excludes_entry(directory, excluding.as_ref(), &entry) {
            Ok(false) => {}
            Ok(true) => return ControlFlow::Continue(()),
            Err(errno) => {
                failed = Some(errno);
                return ControlFlow::Break(());
            }
        }
        match Name::new(entry.name) {
            Ok(name) => names.push(name),
            Err(error) => {
                wrong = Some(error);
                return ControlFlow::Break(());
            }
        }
        if names.len() > NAMES_MAX {
            let rest = names.split_off(NAMES_MAX);
            let names = std::mem::replace(&mut names, rest);
            answer(ToSource::Listed { names, more: true });
        }
        ControlFlow::Continue(())
    });
    read.map_err(fail)?;
    if let Some(errno) = failed {
        return Err(fail(errno));
    }
    match wrong {
        None => Ok(ToSource::Listed { names, more: false }),
        // No file system gives one; a damaged disk may.
        Some(error) => Err(CopyFailure::new(
            format!("list {directory}, where {error}"),
            System::UCLEAN,
        )),
    }
}
