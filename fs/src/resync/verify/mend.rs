//! Repairs: the operations that make the secondary what this node is, in the order of the session.
//!
//! Whatever they are about is claimed while they are worked out and until they are answered. Each begins by telling
//! the secondary by name which inode is meant, as it was compared.

use super::super::lane::{CopyError, Lane};
use super::super::source::read;
use super::names::Sighted;
use super::{Directory, Held, Verify, is_gone_there, node};
use crate::operation::{
    Attributes, Create, FileHandle, InodeId, Name, NodeKind, Operation, Timestamp, Unlink, Victim, XattrMode,
};
use crate::session::claims::ClaimId;
use crate::session::names::unfilled_handle;
use crate::wire::bulk::{ToSource, ToTarget};
use crate::wire::survey::{Facts, Seen, Sight, Spot};
use bytes::Bytes;
use std::sync::Arc;

/// Most nodes in a directory that only the secondary has and that is removed.
const REMOVED_MAX: usize = 10_000;
/// Directories above each other at most in one that is removed.
const REMOVED_DEPTH_MAX: usize = 100;

/// What cannot be repaired, and why.
pub(super) type Mended = Result<(), String>;

impl<'a> Verify<'a> {
    /// Makes a name there what it is here, but for data. It, the inode behind it, and the directory are claimed.
    pub(super) fn mend_name(
        &self,
        lane: &mut Lane,
        claim: ClaimId,
        directory: &Arc<Directory>,
        (name, here, there): &Sighted,
    ) -> Result<Mended, CopyError> {
        let time = match self.tops_mtime(directory)? {
            Some(time) => time,
            None => return Ok(Err("its directory is gone".to_owned())),
        };
        let mut operations = Vec::new();
        // The other name of a file is held until this one is linked to it.
        let mut other = None;
        match (node(here), node(there)) {
            (_, None) if matches!(there, Sight::Mount) => {
                return Ok(Err("unmount what is mounted there".to_owned()));
            }
            (None, None) => return Ok(Ok(())),
            (Some(here), None) => {
                other = match self.make(lane, directory, name, here, time, &mut operations)? {
                    Ok(other) => other,
                    Err(reason) => return Ok(Err(reason)),
                };
            }
            (None, Some(there)) => {
                let removed = self.remove(lane, directory, name, there, time, &mut operations)?;
                if let Err(reason) = removed {
                    return Ok(Err(reason));
                }
            }
            (Some(here), Some(seen)) => {
                let is_other =
                    here.facts.kind != seen.facts.kind || self.is_linked_elsewhere(directory, here, seen);
                if is_other {
                    let removed = self.remove(lane, directory, name, seen, time, &mut operations)?;
                    if let Err(reason) = removed {
                        return Ok(Err(reason));
                    }
                    other = match self.make(lane, directory, name, here, time, &mut operations)? {
                        Ok(other) => other,
                        Err(reason) => return Ok(Err(reason)),
                    };
                } else {
                    let inode = self.adopt(directory, name, here)?;
                    operations.push(bind(inode, directory.inode, name));
                    self.give(inode, &here.facts, Some(&seen.facts), &mut operations)?;
                }
            }
        }
        let mended = self.session.mend(claim, operations);
        drop(other);
        mended
    }

    /// Gives a replicated directory itself, which is claimed, its attributes.
    pub(super) fn mend_top(
        &self,
        lane: &mut Lane,
        claim: ClaimId,
        directory: &Directory,
    ) -> Result<Mended, CopyError> {
        let (here, there) = self.tops(lane, directory)?;
        let (Some(here), Some(there)) = (node(&here), node(&there)) else {
            return Ok(Err("it is gone".to_owned()));
        };
        let mut operations = Vec::new();
        self.give(directory.inode, &here.facts, Some(&there.facts), &mut operations)?;
        self.session.mend(claim, operations)
    }

    /// The present `mtime` of a directory, which name operations are to leave it with.
    fn tops_mtime(&self, directory: &Directory) -> Result<Option<Timestamp>, CopyError> {
        let Some(spot) = self.store.spot(directory.inode) else {
            return Ok(None);
        };
        let sight = self
            .store
            .look_at(&spot)
            .map_err(read("look at", directory.inode))?;
        Ok(node(&sight).map(|seen| seen.facts.mtime))
    }

    /// The file was found under another name before, which leads elsewhere there; or the one there was.
    fn is_linked_elsewhere(&self, directory: &Directory, here: &Seen, there: &Seen) -> bool {
        let key = (directory.there.root, here.handle.clone());
        let known = self.known();
        let linked = known.links.get(&key);
        linked.is_some_and(|linked| linked.there != there.handle)
            || known.is_another_here(directory, here, there)
    }

    /// What makes a node, or links it to another name of it, which is held by what this gives.
    fn make(
        &self,
        lane: &mut Lane,
        directory: &Arc<Directory>,
        name: &Name,
        here: &Seen,
        time: Timestamp,
        operations: &mut Vec<Operation>,
    ) -> Result<Result<Option<Held<'a>>, String>, CopyError> {
        let inode = self.adopt(directory, name, here)?;
        let key = (directory.there.root, here.handle.clone());
        let linked = {
            let known = self.known();
            let linked = known.links.get(&key);
            linked.map(|linked| {
                (
                    linked.directory.clone(),
                    linked.name.clone(),
                    linked.there.clone(),
                )
            })
        };
        if let Some((above, first, there)) = linked
            && (above.inode, &first) != (directory.inode, name)
        {
            let first = [first];
            let held = self.hold_names(&above, &first)?;
            let sights = self.sights(lane, &above, &first)?.unwrap_or_default();
            let is_same =
                |sight: &Sight, handle: &FileHandle| node(sight).is_some_and(|seen| seen.handle == *handle);
            let [first] = &first;
            if !sights
                .iter()
                .any(|(_, one, other)| is_same(one, &here.handle) && is_same(other, &there))
            {
                let path = above.path_of(first);
                return Ok(Err(format!(
                    "{path}, another name of it, has changed meanwhile; verify again"
                )));
            }
            operations.push(bind(inode, above.inode, first));
            operations.push(Operation::Link {
                inode,
                parent: directory.inode,
                name: name.clone(),
                time,
            });
            return Ok(Ok(Some(held)));
        }
        let facts = &here.facts;
        operations.push(Operation::Create(Create {
            parent: directory.inode,
            name: name.clone(),
            inode,
            kind: facts.kind.clone(),
            mode: match facts.kind {
                // Its own, whatever is asked.
                NodeKind::Symlink(_) => 0o777,
                _ => facts.mode,
            },
            uid: facts.uid,
            gid: facts.gid,
            acls: Vec::new(),
            time,
        }));
        self.give(inode, facts, None, operations)?;
        Ok(Ok(None))
    }

    /// What gives a claimed inode its attributes, and a file its size. `there`: what it has, if it is not new.
    ///
    /// Owner and size first, because they drop attributes; the mode after ACLs, because they change it; times last.
    pub(super) fn give(
        &self,
        inode: InodeId,
        here: &Facts,
        there: Option<&Facts>,
        operations: &mut Vec<Operation>,
    ) -> Result<(), CopyError> {
        let size = here
            .size
            .filter(|_| there.is_none_or(|there| there.size != here.size));
        let is_owner = |there: &Facts| (there.uid, there.gid) == (here.uid, here.gid);
        let owner = (!there.is_some_and(is_owner)).then_some((here.uid, here.gid));
        let drops = size.is_some() || owner.is_some();
        if drops {
            operations.push(Operation::SetAttributes {
                inode,
                attributes: Attributes {
                    size,
                    uid: owner.map(|(uid, _)| uid),
                    gid: owner.map(|(_, gid)| gid),
                    ..Attributes::default()
                },
            });
        }
        let before = there.map_or(&[][..], |there| &there.xattrs);
        for (name, _) in before {
            if !here.xattrs.iter().any(|(other, _)| other == name) {
                let name = name.clone();
                operations.push(Operation::RemoveXattr { inode, name });
            }
        }
        for (name, sum) in &here.xattrs {
            if drops || !before.contains(&(name.clone(), *sum)) {
                let value = self.store.xattr(inode, name);
                let value = value.map_err(read("read an attribute of", inode))?;
                operations.push(Operation::SetXattr {
                    inode,
                    name: name.clone(),
                    value: Bytes::from(value),
                    mode: XattrMode::Set,
                    set_mode: None,
                });
            }
        }
        operations.push(Operation::SetAttributes {
            inode,
            attributes: Attributes {
                mode: (!matches!(here.kind, NodeKind::Symlink(_))).then_some(here.mode),
                mtime: Some(here.mtime),
                ..Attributes::default()
            },
        });
        Ok(())
    }

    /// What removes a name that only the secondary has, and everything below it.
    fn remove(
        &self,
        lane: &mut Lane,
        directory: &Directory,
        name: &Name,
        there: &Seen,
        time: Timestamp,
        operations: &mut Vec<Operation>,
    ) -> Result<Mended, CopyError> {
        self.remove_below(lane, directory.inode, directory, name, there, time, operations, 0)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one step of a recursion; each is what changes on the way"
    )]
    fn remove_below(
        &self,
        lane: &mut Lane,
        parent: InodeId,
        directory: &Directory,
        name: &Name,
        there: &Seen,
        time: Timestamp,
        operations: &mut Vec<Operation>,
        depth: usize,
    ) -> Result<Mended, CopyError> {
        if operations.len() > REMOVED_MAX || depth > REMOVED_DEPTH_MAX {
            return Ok(Err(format!(
                "only the secondary has it, and it holds more than {REMOVED_MAX} names or {REMOVED_DEPTH_MAX} \
                 levels: remove it there by hand, while the module is stopped there"
            )));
        }
        // Nobody knows it here: it gets a number for this only.
        let inode = self.store.next_inode();
        let is_directory = there.facts.kind == NodeKind::Directory;
        if is_directory {
            operations.push(bind(inode, parent, name));
            let below = directory.spot(&there.handle);
            for (child, seen) in self.all_there(lane, &below)? {
                let Sight::Node(seen) = seen else {
                    return Ok(Err("something is mounted below it there".to_owned()));
                };
                let removed =
                    self.remove_below(lane, inode, directory, &child, &seen, time, operations, depth + 1)?;
                if removed.is_err() {
                    return Ok(removed);
                }
            }
        }
        operations.push(Operation::Unlink(Unlink {
            parent,
            name: name.clone(),
            directory: is_directory,
            victim: Victim { inode, last: true },
            time,
        }));
        Ok(Ok(()))
    }

    /// Everything in a directory of the secondary.
    fn all_there(&self, lane: &mut Lane, directory: &Spot) -> Result<Vec<(Name, Sight)>, CopyError> {
        let request = ToTarget::Names {
            directory: directory.clone(),
        };
        let mut names = match lane.listed(&request) {
            Ok(names) => names,
            Err(error) if is_gone_there(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut all = Vec::with_capacity(names.len());
        while !names.is_empty() {
            let some = names.len().min(super::names::NAMES_AT_A_TIME);
            lane.ask(&[ToTarget::Survey {
                directory: directory.clone(),
                names: names[..some].to_vec(),
            }])?;
            match lane.answer()? {
                ToSource::Surveyed { sights } if !sights.is_empty() && sights.len() <= some => {
                    let seen = names.drain(..sights.len()).zip(sights);
                    all.extend(seen.filter(|(_, sight)| *sight != Sight::Vacant));
                }
                _ => return Err(CopyError::Confused),
            }
        }
        Ok(all)
    }
}

/// Tells the secondary which inode is meant; the handle is filled in on its way.
pub(super) fn bind(inode: InodeId, parent: InodeId, name: &Name) -> Operation {
    Operation::Bind {
        inode,
        parent,
        name: name.clone(),
        handle: unfilled_handle(),
    }
}
