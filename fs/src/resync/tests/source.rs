//! The simplest source there can be: one request at a time, nothing remembered but what the target knows.

use crate::backing::Store;
use crate::operation::*;
use crate::resync::target;
use crate::wire::bulk::*;
use crate::wire::frame::Message;
use bytes::Bytes;
use rustix::fs::FileType;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;

/// Both ends of a copy.
pub(super) struct Copy<'a> {
    pub(super) source: &'a Store,
    pub(super) target: &'a Store,
    /// What the target was told of.
    known: BTreeSet<InodeId>,
    /// Bytes of data sent.
    pub(super) sent: u64,
}

impl<'a> Copy<'a> {
    pub(super) fn new(source: &'a Store, target: &'a Store) -> Self {
        Copy {
            source,
            target,
            known: BTreeSet::new(),
            sent: 0,
        }
    }

    /// Brings everything over, names of deep directories first if `reversed`, which is the harder way.
    pub(super) fn run(&mut self, reversed: bool) {
        self.target.remove_displaced().unwrap();
        let files = self.names(reversed);
        self.target.remove_displaced().unwrap();
        for (inode, kind) in &files {
            if *kind == FileType::RegularFile {
                self.data(*inode);
            }
        }
        for inode in files.keys() {
            let attributes = Box::new(self.source.all_attributes(*inode).unwrap());
            let inode = *inode;
            self.written(ToTarget::Attributes { inode, attributes });
        }
    }

    /// Everything that has a name on the source, after all names are there.
    fn names(&mut self, reversed: bool) -> BTreeMap<InodeId, FileType> {
        let mut found = BTreeMap::new();
        let mut waiting: VecDeque<InodeId> = (0..self.source.directories()).map(InodeId::root).collect();
        let mut blocked = Vec::new();
        found.extend(waiting.iter().map(|root| (*root, FileType::Directory)));
        for _round in 0..1000 {
            while let Some(directory) = if reversed {
                waiting.pop_back()
            } else {
                waiting.pop_front()
            } {
                let (entries, below) = self.entries(directory, &mut found);
                for part in entries.chunks(NAMES_MAX) {
                    let entries = part.to_vec();
                    let answers = self.ask(ToTarget::Place {
                        directory,
                        entries,
                        sole: false,
                        path: Default::default(),
                    });
                    let [ToSource::Placed { outcomes }] = &answers[..] else {
                        panic!("{part:?} in {directory}: {answers:?}");
                    };
                    for (entry, placed) in part.iter().zip(outcomes) {
                        match (&entry.node, placed) {
                            (None, Placed::Vacant) | (Some(_), Placed::There { .. }) => {}
                            (Some(_), Placed::Blocked) => blocked.push(directory),
                            other => panic!("{other:?}"),
                        }
                    }
                }
                waiting.extend(below);
            }
            if blocked.is_empty() {
                return found;
            }
            waiting.extend(blocked.drain(..));
        }
        panic!("blocked for ever");
    }

    /// What every name of a directory is on the source, also those that only the target has; and the directories
    /// among them that were not met before.
    fn entries(
        &mut self,
        directory: InodeId,
        found: &mut BTreeMap<InodeId, FileType>,
    ) -> (Vec<Entry>, Vec<InodeId>) {
        let names: BTreeSet<Name> = list(self.source, directory)
            .into_iter()
            .chain(self.list(directory))
            .collect();
        let mut below = Vec::new();
        let entries = names.into_iter().map(|name| {
            let node = self.source.look_up(directory, &name).ok().map(|looked_up| {
                let (inode, _) = self.source.adopt(looked_up.root, &looked_up.handle);
                let kind = FileType::from_raw_mode(looked_up.status.st_mode);
                if found.insert(inode, kind).is_none() && kind == FileType::Directory {
                    below.push(inode);
                }
                Node {
                    inode,
                    known: !self.known.insert(inode),
                    kind: self.kind(inode, kind, looked_up.status.st_rdev),
                    handle: looked_up.handle,
                }
            });
            Entry { name, node }
        });
        let entries = entries.collect();
        (entries, below)
    }

    fn kind(&self, inode: InodeId, kind: FileType, device: u64) -> NodeKind {
        match kind {
            FileType::Directory => NodeKind::Directory,
            FileType::Symlink => NodeKind::Symlink(self.source.link_target(inode).unwrap().into()),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::CharacterDevice => NodeKind::CharacterDevice(device),
            FileType::BlockDevice => NodeKind::BlockDevice(device),
            _ => NodeKind::File,
        }
    }

    fn list(&mut self, directory: InodeId) -> Vec<Name> {
        let answers = self.ask(ToTarget::List {
            directory,
            path: Default::default(),
        });
        let count = answers.len();
        let names = answers
            .into_iter()
            .enumerate()
            .map(|(index, answer)| match answer {
                ToSource::Listed { names, more } => {
                    assert_eq!(more, index + 1 < count);
                    names
                }
                other => panic!("{other:?}"),
            });
        names.flatten().collect()
    }

    fn data(&mut self, inode: InodeId) {
        // What the cache holds of what was never written is not data.
        self.source.settle(inode, 0, u64::MAX).unwrap();
        for segment in self.source.data_segments(inode, 0, u64::MAX).unwrap() {
            if segment.is_data {
                let starts = (segment.offset..segment.end()).step_by(BLOCK_BYTES as usize);
                let blocks: Vec<Block> = starts
                    .map(|offset| {
                        let length = BLOCK_BYTES.min(segment.end() - offset);
                        let sum = Sum::of(&self.read(inode, offset, length));
                        let length = length as u32;
                        Block {
                            inode,
                            offset,
                            length,
                            sum,
                        }
                    })
                    .collect();
                for part in blocks.chunks(BLOCKS_MAX) {
                    self.blocks(inode, part);
                }
            } else {
                let size = self.source.status(inode).unwrap().st_size.cast_unsigned();
                // To the end of its block: a file ends anywhere, a hole does not.
                let end = if segment.end() < size {
                    segment.end()
                } else {
                    size.next_multiple_of(BLOCK_BYTES)
                };
                let (offset, length) = (segment.offset, end - segment.offset);
                self.written(ToTarget::Hole {
                    inode,
                    offset,
                    length,
                });
            }
        }
    }

    fn blocks(&mut self, inode: InodeId, blocks: &[Block]) {
        let blocks = blocks.to_vec();
        let answers = self.ask(ToTarget::Compare {
            blocks: blocks.clone(),
        });
        let [ToSource::Compared { equal }] = &answers[..] else {
            panic!("not compared: {answers:?}");
        };
        for (block, _) in blocks.iter().zip(equal).filter(|(_, equal)| !**equal) {
            let data = self.read(inode, block.offset, block.length.into());
            self.sent += data.len() as u64;
            let offset = block.offset;
            self.written(ToTarget::Data { inode, offset, data });
        }
    }

    fn read(&self, inode: InodeId, offset: u64, length: u64) -> Bytes {
        self.source.read(inode, offset, length as usize).unwrap()
    }

    fn written(&mut self, request: ToTarget) {
        let answers = self.ask(request.clone());
        assert_eq!(answers, [ToSource::Written], "{request:?}");
    }

    /// Everything that is said must be sayable.
    pub(super) fn ask(&mut self, request: ToTarget) -> Vec<ToSource> {
        request.encode().unwrap();
        let mut answers = Vec::new();
        target::execute(self.target, &request, |answer| answers.push(answer));
        answers.iter().for_each(|answer| drop(answer.encode().unwrap()));
        answers
    }
}

fn list(store: &Store, directory: InodeId) -> Vec<Name> {
    let mut names = Vec::new();
    let listing = store.open_directory(directory).unwrap();
    let read = listing.read(0, |entry| {
        names.extend(Name::new(entry.name).ok());
        ControlFlow::Continue(())
    });
    read.unwrap();
    names
}
