//! What becomes of an operation near the border between what is replicated and what is excluded (`exclude.rs`).
//!
//! A file that is renamed out is removed from the secondary in the same step. One that is renamed in is first brought
//! there with all that it holds (`primary/entering.rs`). A directory stays on its side, and so does every name of a file
//! that has several: whoever renames gets `EXDEV` and copies, as between two file systems.

use super::names::Names;
use crate::operation::{Attributes, InodeId, Operation, Rename, RenameMode, Unlink, Victim};

/// Where a name is, and so its inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// On both nodes.
    Replicated,
    /// On this node only.
    Excluded,
}

impl Side {
    pub(super) fn of(is_excluded: bool) -> Self {
        if is_excluded {
            Side::Excluded
        } else {
            Side::Replicated
        }
    }
}

/// What of an operation the secondary gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Share {
    /// The operation itself.
    Whole,
    /// This one in its place.
    Other(Box<Operation>),
    /// All of a file and then the operation. Where the secondary gets it later, by a copy, this is what it lacks.
    Entering(Box<[Operation]>),
    /// Nothing, and nobody needs to know later either.
    Nothing,
    /// It is not done, but answered `EXDEV`.
    Refused,
}

/// One inode that a rename gives another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) from: Side,
    pub(super) to: Side,
    /// The side of the directory that it leaves.
    pub(super) above: Side,
    pub(super) is_directory: bool,
    /// It has, or had, more names than this.
    pub(super) is_linked: bool,
}

/// What a rename does at the border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crossing {
    /// Nothing: all of it happens on this side.
    Stays(Side),
    /// A file with one name leaves what is replicated.
    Leaves,
    /// One comes in, from a directory that the secondary has.
    Enters,
    /// `EXDEV`.
    Refused,
}

/// `replaced` is the side of what has the target name. For [`RenameMode::Exchange`], `back` is that inode on its way.
pub(super) fn crossing(
    mode: RenameMode,
    moved: Moved,
    replaced: Option<Side>,
    back: Option<Moved>,
) -> Crossing {
    match (mode, moved.from, moved.to) {
        (RenameMode::Exchange, Side::Replicated, Side::Replicated)
        | (RenameMode::Exchange, Side::Excluded, Side::Excluded) => {
            let stays = back.is_some_and(|back| back.from == moved.from && back.to == moved.from);
            if stays {
                Crossing::Stays(moved.from)
            } else {
                Crossing::Refused
            }
        }
        (RenameMode::Exchange, Side::Replicated, Side::Excluded)
        | (RenameMode::Exchange, Side::Excluded, Side::Replicated) => Crossing::Refused,
        // A pattern for directories only, which cannot take the place of a file, nor a file theirs.
        (RenameMode::Replace | RenameMode::NoReplace, _, to) if replaced.is_some_and(|side| side != to) => {
            Crossing::Refused
        }
        (RenameMode::Replace | RenameMode::NoReplace, Side::Replicated, Side::Replicated) => {
            Crossing::Stays(Side::Replicated)
        }
        (RenameMode::Replace | RenameMode::NoReplace, Side::Excluded, Side::Excluded) => {
            Crossing::Stays(Side::Excluded)
        }
        (RenameMode::Replace | RenameMode::NoReplace, Side::Replicated, Side::Excluded) => {
            if moved.is_directory || moved.is_linked {
                Crossing::Refused
            } else {
                Crossing::Leaves
            }
        }
        (RenameMode::Replace | RenameMode::NoReplace, Side::Excluded, Side::Replicated) => {
            if moved.is_directory || moved.is_linked || moved.above == Side::Excluded {
                Crossing::Refused
            } else {
                Crossing::Enters
            }
        }
    }
}

/// What of an operation that is about to be numbered the secondary gets.
pub(super) fn share(operation: &Operation, names: &Names) -> Share {
    if !names.excludes_anything() {
        return Share::Whole;
    }
    let one_side = |inode: InodeId| match names.side(inode) {
        Side::Replicated => Share::Whole,
        Side::Excluded => Share::Nothing,
    };
    match operation {
        Operation::Create(create) => {
            let is_directory = matches!(create.kind, crate::operation::NodeKind::Directory);
            match names.side_of_name(create.parent, &create.name, is_directory) {
                Side::Replicated => Share::Whole,
                Side::Excluded => Share::Nothing,
            }
        }
        Operation::Link {
            inode, parent, name, ..
        } => {
            if names.side(*inode) == names.side_of_name(*parent, name, false) {
                one_side(*inode)
            } else {
                Share::Refused
            }
        }
        Operation::Unlink(unlink) => one_side(unlink.victim.inode),
        Operation::Rename(rename) => match names.crossing(rename) {
            Crossing::Stays(Side::Replicated) => Share::Whole,
            Crossing::Stays(Side::Excluded) => Share::Nothing,
            Crossing::Refused => Share::Refused,
            Crossing::Enters => Share::Entering(lacking(rename)),
            Crossing::Leaves => Share::Other(Box::new(Operation::Unlink(Unlink {
                parent: rename.source_parent,
                name: rename.source_name.clone(),
                directory: false,
                victim: Victim {
                    inode: rename.moved,
                    last: true,
                },
                time: rename.time,
            }))),
        },
        Operation::CopyRange { source, target, .. } => match (names.side(*source), names.side(*target)) {
            (_, Side::Excluded) => Share::Nothing,
            (Side::Replicated, Side::Replicated) => Share::Whole,
            // The kernel then copies by reading and writing.
            (Side::Excluded, Side::Replicated) => Share::Refused,
        },
        Operation::Write { inode, .. }
        | Operation::SetAttributes { inode, .. }
        | Operation::Fallocate { inode, .. }
        | Operation::SetXattr { inode, .. }
        | Operation::RemoveXattr { inode, .. }
        | Operation::Sync { inode, .. } => one_side(*inode),
        Operation::Bind { .. } | Operation::Checkpoint => Share::Whole,
    }
}

/// What the secondary lacks of a file that has come in by this: all of it, and its name.
fn lacking(rename: &Rename) -> Box<[Operation]> {
    let inode = rename.moved;
    let everything = Attributes {
        size: Some(0),
        ..Attributes::default()
    };
    let content = Operation::SetAttributes {
        inode,
        attributes: everything,
    };
    let (parent, name, time) = (rename.target_parent, rename.target_name.clone(), rename.time);
    let replaced = rename.replaced.map(|victim| {
        Operation::Unlink(Unlink {
            parent,
            name: name.clone(),
            directory: false,
            victim,
            time,
        })
    });
    let named = Operation::Link {
        inode,
        parent,
        name: name.clone(),
        time,
    };
    [Some(content), replaced, Some(named)]
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Side::{Excluded as E, Replicated as R};

    fn moved(from: Side, to: Side) -> Moved {
        Moved {
            from,
            to,
            above: R,
            is_directory: false,
            is_linked: false,
        }
    }

    #[test]
    fn every_rename_has_one_outcome() {
        use Crossing::{Enters, Leaves, Refused, Stays};
        let cases = [
            (R, R, Stays(R), Stays(R), Stays(R)),
            (E, E, Stays(E), Stays(E), Stays(E)),
            // A file, a directory, a file with several names.
            (R, E, Leaves, Refused, Refused),
            (E, R, Enters, Refused, Refused),
        ];
        for mode in [RenameMode::Replace, RenameMode::NoReplace] {
            for (from, to, file, directory, linked) in cases {
                let plain = moved(from, to);
                let as_directory = Moved {
                    is_directory: true,
                    ..plain
                };
                let as_linked = Moved {
                    is_linked: true,
                    ..plain
                };
                for replaced in [None, Some(to)] {
                    assert_eq!(crossing(mode, plain, replaced, None), file, "{mode:?} {plain:?}");
                    assert_eq!(crossing(mode, as_directory, replaced, None), directory);
                    assert_eq!(crossing(mode, as_linked, replaced, None), linked);
                }
                let below_excluded = Moved { above: E, ..plain };
                if from == E {
                    let stays = if to == E { Stays(E) } else { Refused };
                    assert_eq!(crossing(mode, below_excluded, None, None), stays);
                }
                let other = if to == R { E } else { R };
                assert_eq!(crossing(mode, plain, Some(other), None), Refused);
            }
        }
    }

    #[test]
    fn an_exchange_stays_on_one_side_or_is_refused() {
        let sides = [R, E];
        for from in sides {
            for to in sides {
                for back_from in sides {
                    for back_to in sides {
                        let back = moved(back_from, back_to);
                        let expected = if [to, back_from, back_to] == [from; 3] {
                            Crossing::Stays(from)
                        } else {
                            Crossing::Refused
                        };
                        let found =
                            crossing(RenameMode::Exchange, moved(from, to), Some(back_from), Some(back));
                        assert_eq!(found, expected, "{from:?} {to:?} {back:?}");
                    }
                }
            }
        }
    }
}
