//! The same random operations on two stores leave equal trees.

use super::super::{Access, Store};
use super::scratch::*;
use super::tree::tree_of;
use crate::operation::*;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// An operation by choice of names and numbers; what they stand for depends on the tree at that time.
#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    one: u8,
    other: u8,
    place: u8,
    goal: u8,
    number: u32,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        any::<u8>(),
        any::<u8>(),
        any::<u8>(),
        any::<u8>(),
        any::<u8>(),
        any::<u32>(),
    );
    let step = step.prop_map(|(kind, one, other, place, goal, number)| Step {
        kind,
        one,
        other,
        place,
        goal,
        number,
    });
    proptest::collection::vec(step, 1..120)
}

/// What the primary would send: it looks up names in `store`, and binds what the other does not know.
struct Chooser<'a> {
    primary: &'a Store,
    secondary: &'a Store,
    inodes: Vec<InodeId>,
    by_handle: BTreeMap<Vec<u8>, InodeId>,
    clock: i64,
}

impl Chooser<'_> {
    fn inode(&self, choice: u8) -> InodeId {
        self.inodes[usize::from(choice) % self.inodes.len()]
    }

    fn victim(&self, parent: InodeId, text: &Name) -> Option<Victim> {
        let found = self.primary.look_up(parent, text).ok()?;
        let inode = *self.by_handle.get(&found.handle.bytes[..])?;
        let directory =
            rustix::fs::FileType::from_raw_mode(found.status.st_mode) == rustix::fs::FileType::Directory;
        Some(Victim {
            inode,
            last: directory || found.status.st_nlink == 1,
        })
    }

    fn operation(&mut self, step: &Step) -> Option<Operation> {
        self.clock += 1;
        let time = Timestamp {
            seconds: self.clock,
            nanoseconds: step.number % 1_000_000_000,
        };
        let text = |choice: u8| name(NAMES[usize::from(choice) % NAMES.len()]);
        let parent = self.inode(step.place);
        let inode = self.inode(step.goal);
        let data = Bytes::from(vec![step.one; 1 + step.number as usize % 9000]);
        let offset = u64::from(step.other) * 1000;
        let operation = match step.kind % 16 {
            0..=4 => Operation::Create(Create {
                parent,
                name: text(step.one),
                inode: self.primary.next_inode(),
                kind: match step.other % 6 {
                    0 | 1 => NodeKind::File,
                    2 | 3 => NodeKind::Directory,
                    4 => NodeKind::Symlink(Bytes::from_static(b"../a")),
                    _ => NodeKind::Fifo,
                },
                mode: step.number & 0o7777,
                uid: u32::from(step.goal),
                gid: u32::from(step.place),
                acls: vec![],
                time,
            }),
            5 => Operation::Link {
                inode,
                parent,
                name: text(step.one),
                time,
            },
            6 | 7 => {
                let name = text(step.one);
                let victim = self.victim(parent, &name)?;
                Operation::Unlink(Unlink {
                    parent,
                    name,
                    directory: step.other.is_multiple_of(3),
                    victim,
                    time,
                })
            }
            8 | 9 => {
                let (source_name, target_name) = (text(step.one), text(step.other));
                let moved = self.victim(parent, &source_name)?.inode;
                let replaced = self.victim(inode, &target_name);
                Operation::Rename(Rename {
                    source_parent: parent,
                    source_name,
                    target_parent: inode,
                    target_name,
                    mode: match step.number % 4 {
                        0 => RenameMode::Exchange,
                        1 => RenameMode::NoReplace,
                        _ => RenameMode::Replace,
                    },
                    moved,
                    replaced,
                    time,
                })
            }
            10 | 11 => Operation::Write {
                inode,
                offset,
                data,
                time: Some(time),
                mode: Some(0o644),
            },
            12 => {
                let odd = step.number % 2 == 1;
                Operation::SetAttributes {
                    inode,
                    attributes: Attributes {
                        mode: odd.then_some(step.number & 0o7777),
                        uid: odd.then_some(u32::from(step.one)),
                        gid: None,
                        size: (!odd).then_some(offset),
                        atime: None,
                        mtime: Some(time),
                        drop_capability: odd,
                    },
                }
            }
            13 => Operation::Fallocate {
                inode,
                mode: [
                    FallocateMode::Allocate,
                    FallocateMode::AllocateKeepSize,
                    FallocateMode::PunchHole,
                    FallocateMode::ZeroRange,
                    FallocateMode::ZeroRangeKeepSize,
                ][usize::from(step.one) % 5],
                offset,
                length: 1 + u64::from(step.number % 20_000),
                time: Some(time),
                set_mode: None,
            },
            14 => {
                let size = self.primary.status(parent).ok()?.st_size as u64;
                let source_offset = offset.min(size);
                Operation::CopyRange {
                    source: parent,
                    source_offset,
                    target: inode,
                    target_offset: u64::from(step.one) * 777,
                    length: u64::from(step.number % 50_000).min(size - source_offset),
                    time: Some(time),
                    set_mode: None,
                }
            }
            _ => Operation::SetXattr {
                inode,
                name: xattr_name(if step.one.is_multiple_of(2) {
                    "user.one"
                } else {
                    "trusted.two"
                }),
                value: data.slice(..data.len().min(200)),
                mode: [XattrMode::Set, XattrMode::Create, XattrMode::Replace][usize::from(step.other) % 3],
                set_mode: None,
            },
        };
        Some(operation)
    }

    fn run(&mut self, step: &Step) {
        let Some(operation) = self.operation(step) else {
            return;
        };
        let foreseen = self.primary.would_refuse(&operation);
        let first = self.secondary.apply(&operation);
        let second = self.primary.apply(&operation);
        match (&first, &second) {
            (Outcome::Applied(one), Outcome::Applied(other)) => {
                assert_eq!(one.length, other.length, "{operation:?}")
            }
            (one, other) => assert_eq!(one, other, "{operation:?}"),
        }
        match foreseen {
            Some(errno) => assert_eq!(second, Outcome::Refused(errno), "{operation:?}"),
            None => {
                let names = [
                    libc::EEXIST,
                    libc::ENOENT,
                    libc::ENOTEMPTY,
                    libc::EISDIR,
                    libc::ENOTDIR,
                    libc::ELOOP,
                    libc::ENODATA,
                ];
                assert!(
                    !matches!(second, Outcome::Refused(errno) if names.contains(&errno.0)),
                    "not foreseen: {second:?} of {operation:?}"
                );
            }
        }
        if !matches!(second, Outcome::Applied(_)) {
            return;
        }
        let gone = match &operation {
            Operation::Create(create) => {
                let handle = self.primary.handle(create.inode).unwrap();
                self.by_handle.insert(handle.bytes.to_vec(), create.inode);
                self.inodes.push(create.inode);
                None
            }
            Operation::Unlink(unlink) => Some(unlink.victim),
            Operation::Rename(rename) if rename.mode == RenameMode::Replace => {
                rename.replaced.filter(|victim| victim.inode != rename.moved)
            }
            _ => None,
        };
        if let Some(victim) = gone.filter(|victim| victim.last) {
            self.inodes.retain(|inode| *inode != victim.inode);
            self.by_handle.retain(|_, inode| *inode != victim.inode);
            self.primary.forget(&[victim.inode]);
            self.secondary.forget(&[victim.inode]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_operations_give_equal_trees(steps in steps()) {
        let (primary, secondary) = (Scratch::new(), Scratch::new());
        // What differs from the start would differ in the end.
        for scratch in [&primary, &secondary] {
            let new = Attributes { mtime: Some(TIME), mode: Some(0o755), ..Attributes::default() };
            scratch.applied(&attributes(ROOT, new));
        }
        let mut chooser = Chooser {
            primary: &primary.store,
            secondary: &secondary.store,
            inodes: vec![ROOT],
            by_handle: BTreeMap::new(),
            clock: 1_700_000_000,
        };
        for step in &steps {
            chooser.run(step);
        }
        for inode in chooser.inodes {
            let known = |store: &Store| store.file(inode, Access::Path).is_ok();
            prop_assert!(known(&primary.store) && known(&secondary.store));
        }
        let [one, other] = [&primary, &secondary].map(|scratch| tree_of(scratch.dirs[0].path()));
        prop_assert_eq!(one, other);
    }
}
