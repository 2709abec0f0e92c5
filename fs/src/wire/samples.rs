//! Arbitrary messages within their limits, for tests.

use super::bulk::*;
use super::message::*;
use super::survey::{Facts, Seen, Sight, Spot};
use crate::config::{Durability, SyncMode};
use crate::control::status::Standing;
use crate::operation::*;
use crate::record::decision::CopyState;
use crate::record::split_brain::Change;
use crate::record::{CopyKind, HISTORY_MAX, History, Role};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

/// Any message to the secondary.
pub fn to_secondary() -> impl Strategy<Value = ToSecondary> {
    prop_oneof![
        1 => hello().prop_map(ToSecondary::Hello),
        12 => (1..u64::MAX, any::<u64>(), vec((inode(), handle()), 0..4), operation()).prop_map(
            |(number, below, introduced, operation)| ToSecondary::Operation {
                number: Number(number),
                confirmed: Number(below % number),
                introduced,
                operation,
            }
        ),
        1 => (any::<u64>(), prefix()).prop_map(|(nonce, confirmed)| ToSecondary::Ping { nonce, confirmed }),
        1 => vec(inode(), 0..20).prop_map(ToSecondary::Forget),
        1 => Just(ToSecondary::End),
        1 => (generation(), text()).prop_map(|(generation, reason)| ToSecondary::Part { generation, reason }),
        1 => generation().prop_map(|generation| ToSecondary::Complete { generation }),
        1 => prefix().prop_map(|number| ToSecondary::Covered { number }),
    ]
}

/// Any message to the primary.
pub fn to_primary() -> impl Strategy<Value = ToPrimary> {
    prop_oneof![
        welcome().prop_map(ToPrimary::Welcome),
        rejection().prop_map(ToPrimary::Reject),
        (prefix(), vec(answer(), 0..20)).prop_map(|(prefix, answers)| ToPrimary::Answers { prefix, answers }),
        (
            any::<u64>(),
            prefix(),
            vec(running(), 0..=64),
            vec(room(), 0..=64)
        )
            .prop_map(|(nonce, prefix, running, rooms)| ToPrimary::Pong {
                nonce,
                prefix,
                running,
                rooms,
            }),
        Just(ToPrimary::Ended),
        Just(ToPrimary::Parted),
        text().prop_map(|reason| ToPrimary::Leaving { reason }),
    ]
}

/// Any message to the target of a copy.
pub fn to_target() -> impl Strategy<Value = ToTarget> {
    prop_oneof![
        (label(), label(), any::<[u8; 16]>()).prop_map(|(module, node, session)| ToTarget::Open(Open {
            module,
            node,
            session: SessionId(session),
        })),
        (inode(), text()).prop_map(|(directory, path)| ToTarget::List {
            directory,
            path: path.into(),
        }),
        (inode(), vec(entry(), 0..20), any::<bool>(), text()).prop_map(|(directory, entries, sole, path)| {
            ToTarget::Place {
                directory,
                entries,
                sole,
                path: path.into(),
            }
        }),
        spot().prop_map(|directory| ToTarget::Names { directory }),
        (spot(), vec(name(), 0..20)).prop_map(|(directory, names)| ToTarget::Survey { directory, names }),
        spot().prop_map(|node| ToTarget::Look { node }),
        (spot(), 0..1u64 << 40, 0..=BLOCKS_MAX as u64 * BLOCK_BYTES).prop_map(|(file, block, length)| {
            ToTarget::Sums {
                file,
                offset: block * BLOCK_BYTES,
                length,
            }
        }),
        vec(identify(), 0..20).prop_map(|nodes| ToTarget::Identify { nodes }),
        Just(ToTarget::Settle),
        vec(block(), 0..20).prop_map(|blocks| ToTarget::Compare { blocks }),
        (inode(), offset(), data(1, 9000)).prop_map(|(inode, offset, data)| ToTarget::Data {
            inode,
            offset,
            data
        }),
        (inode(), offset(), 1..1u64 << 20).prop_map(|(inode, offset, length)| ToTarget::Hole {
            inode,
            offset,
            length
        }),
        (inode(), all_attributes()).prop_map(|(inode, attributes)| ToTarget::Attributes {
            inode,
            attributes: Box::new(attributes)
        }),
    ]
}

/// Any message to the source of a copy.
pub fn to_source() -> impl Strategy<Value = ToSource> {
    let placed = || {
        prop_oneof![
            Just(Placed::Vacant),
            (handle(), any::<bool>()).prop_map(|(handle, new)| Placed::There { handle, new }),
            Just(Placed::Blocked),
        ]
    };
    prop_oneof![
        Just(ToSource::Opened),
        text().prop_map(|reason| ToSource::Refused { reason }),
        (vec(name(), 0..20), any::<bool>()).prop_map(|(names, more)| ToSource::Listed { names, more }),
        vec(placed(), 0..20).prop_map(|outcomes| ToSource::Placed { outcomes }),
        vec(any::<bool>(), 0..=BLOCKS_MAX).prop_map(|equal| ToSource::Compared { equal }),
        vec(proptest::option::of(handle()), 0..20).prop_map(|handles| ToSource::Identified { handles }),
        vec(sight(), 0..20).prop_map(|sights| ToSource::Surveyed { sights }),
        vec(of(any::<[u8; 16]>().prop_map(Sum)), 0..50).prop_map(|sums| ToSource::Summed { sums }),
        Just(ToSource::Written),
        (errno(), text()).prop_map(|(errno, reason)| ToSource::Failed { errno, reason }),
    ]
}

fn spot() -> impl Strategy<Value = Spot> {
    (0..64u32, of(handle())).prop_map(|(root, handle)| Spot { root, handle })
}

fn sight() -> impl Strategy<Value = Sight> {
    let xattrs = vec((xattr_name(), any::<[u8; 16]>().prop_map(Sum)), 0..5);
    let attributes = (mode(), owner(), owner(), time(), xattrs);
    let facts = (kind(), 0..100u64, of(offset()), attributes).prop_map(
        |(kind, links, size, (mode, uid, gid, mtime, xattrs))| Facts {
            kind,
            links,
            size,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        },
    );
    let node = (handle(), facts).prop_map(|(handle, facts)| Sight::Node(Box::new(Seen { handle, facts })));
    prop_oneof![Just(Sight::Vacant), Just(Sight::Mount), node]
}

fn identify() -> impl Strategy<Value = Identify> {
    let by = prop_oneof![
        handle().prop_map(By::Handle),
        (inode(), name()).prop_map(|(parent, name)| By::Place { parent, name }),
    ];
    (inode(), 0..64u32, kind(), handle(), by).prop_map(|(inode, root, kind, handle, by)| Identify {
        inode,
        root,
        kind,
        handle,
        by,
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    let node = (inode(), any::<bool>(), kind(), handle()).prop_map(|(inode, known, kind, handle)| Node {
        inode,
        known,
        kind,
        handle,
    });
    (name(), of(node)).prop_map(|(name, node)| Entry { name, node })
}

fn block() -> impl Strategy<Value = Block> {
    (inode(), offset(), 1..=BLOCK_BYTES as u32, any::<[u8; 16]>()).prop_map(|(inode, offset, length, sum)| {
        Block {
            inode,
            offset,
            length,
            sum: Sum(sum),
        }
    })
}

fn all_attributes() -> impl Strategy<Value = AllAttributes> {
    let xattrs = vec((xattr_name(), data(0, 300)), 0..5);
    (of(offset()), mode(), owner(), owner(), time(), xattrs).prop_map(
        |(size, mode, uid, gid, mtime, xattrs)| AllAttributes {
            size,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        },
    )
}

fn inode() -> impl Strategy<Value = InodeId> {
    (1..=u64::MAX).prop_map(InodeId)
}

fn number() -> impl Strategy<Value = Number> {
    (1..u64::MAX).prop_map(Number)
}

fn prefix() -> impl Strategy<Value = Number> {
    (0..u64::MAX).prop_map(Number)
}

fn name() -> impl Strategy<Value = Name> {
    vec(any::<u8>(), 1..=NAME_BYTES_MAX).prop_filter_map("not a name", |bytes| Name::new(&bytes).ok())
}

fn xattr_name() -> impl Strategy<Value = XattrName> {
    vec(1..=u8::MAX, 1..=NAME_BYTES_MAX).prop_map(|bytes| XattrName::new(&bytes).unwrap())
}

fn handle() -> impl Strategy<Value = FileHandle> {
    (any::<i32>(), vec(any::<u8>(), 0..=128)).prop_map(|(kind, bytes)| FileHandle {
        kind,
        bytes: bytes.into(),
    })
}

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
}

fn mode() -> impl Strategy<Value = u32> {
    0..=0o7777u32
}

fn owner() -> impl Strategy<Value = u32> {
    0..u32::MAX
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![0..1u64 << 20, 0..i64::MAX as u64 - COPY_BYTES_MAX]
}

fn data(least: usize, most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), least..=most).prop_map(Bytes::from)
}

fn text() -> impl Strategy<Value = String> {
    ".{0,60}"
}

fn label() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,62}"
}

fn generation() -> impl Strategy<Value = Generation> {
    any::<[u8; 16]>().prop_map(Generation)
}

fn victim() -> impl Strategy<Value = Victim> {
    (inode(), any::<bool>()).prop_map(|(inode, last)| Victim { inode, last })
}

fn kind() -> impl Strategy<Value = NodeKind> {
    prop_oneof![
        Just(NodeKind::File),
        Just(NodeKind::Directory),
        vec(1..=u8::MAX, 1..=200).prop_map(|target| NodeKind::Symlink(target.into())),
        Just(NodeKind::Fifo),
        Just(NodeKind::Socket),
        any::<u64>().prop_map(NodeKind::CharacterDevice),
        any::<u64>().prop_map(NodeKind::BlockDevice),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (inode(), inode(), name(), handle()).prop_map(|(inode, parent, name, handle)| Operation::Bind {
            inode,
            parent,
            name,
            handle
        }),
        create().prop_map(Operation::Create),
        (inode(), inode(), name(), time()).prop_map(|(inode, parent, name, time)| Operation::Link {
            inode,
            parent,
            name,
            time
        }),
        (inode(), name(), any::<bool>(), victim(), time()).prop_map(
            |(parent, name, directory, victim, time)| Operation::Unlink(Unlink {
                parent,
                name,
                directory,
                victim,
                time
            })
        ),
        rename().prop_map(Operation::Rename),
        (inode(), offset(), data(1, 9000), of(time()), of(mode())).prop_map(
            |(inode, offset, data, time, mode)| Operation::Write {
                inode,
                offset,
                data,
                time,
                mode
            }
        ),
        (inode(), attributes())
            .prop_map(|(inode, attributes)| Operation::SetAttributes { inode, attributes }),
        (
            inode(),
            fallocate_mode(),
            offset(),
            1..1u64 << 30,
            of(time()),
            of(mode())
        )
            .prop_map(
                |(inode, mode, offset, length, time, set_mode)| Operation::Fallocate {
                    inode,
                    mode,
                    offset: offset / 2,
                    length,
                    time,
                    set_mode
                }
            ),
        (
            inode(),
            offset(),
            inode(),
            offset(),
            0..=COPY_BYTES_MAX,
            of(time()),
            of(mode())
        )
            .prop_map(
                |(source, source_offset, target, target_offset, length, time, set_mode)| {
                    Operation::CopyRange {
                        source,
                        source_offset,
                        target,
                        target_offset,
                        length,
                        time,
                        set_mode,
                    }
                }
            ),
        (inode(), xattr_name(), data(0, 300), xattr_mode(), of(mode())).prop_map(
            |(inode, name, value, mode, set_mode)| Operation::SetXattr {
                inode,
                name,
                value,
                mode,
                set_mode
            }
        ),
        (inode(), xattr_name()).prop_map(|(inode, name)| Operation::RemoveXattr { inode, name }),
        (inode(), any::<bool>()).prop_map(|(inode, data_only)| Operation::Sync { inode, data_only }),
        Just(Operation::Checkpoint),
    ]
}

fn create() -> impl Strategy<Value = Create> {
    let acls = vec((xattr_name(), data(0, 100)), 0..=2);
    (
        inode(),
        name(),
        inode(),
        kind(),
        mode(),
        owner(),
        owner(),
        acls,
        time(),
    )
        .prop_map(|(parent, name, inode, kind, mode, uid, gid, acls, time)| Create {
            parent,
            name,
            inode,
            kind,
            mode,
            uid,
            gid,
            acls,
            time,
        })
}

fn rename() -> impl Strategy<Value = Rename> {
    let mode = prop_oneof![
        Just(RenameMode::Replace),
        Just(RenameMode::NoReplace),
        Just(RenameMode::Exchange)
    ];
    (
        inode(),
        name(),
        inode(),
        name(),
        mode,
        inode(),
        of(victim()),
        time(),
    )
        .prop_map(
            |(source_parent, source_name, target_parent, target_name, mode, moved, replaced, time)| Rename {
                source_parent,
                source_name,
                target_parent,
                target_name,
                mode,
                moved,
                replaced,
                time,
            },
        )
}

fn attributes() -> impl Strategy<Value = Attributes> {
    (
        of(mode()),
        of(owner()),
        of(owner()),
        of(offset()),
        of(time()),
        of(time()),
        any::<bool>(),
    )
        .prop_map(
            |(mode, uid, gid, size, atime, mtime, drop_capability)| Attributes {
                mode,
                uid,
                gid,
                size,
                atime,
                mtime,
                drop_capability,
            },
        )
}

fn fallocate_mode() -> impl Strategy<Value = FallocateMode> {
    prop_oneof![
        Just(FallocateMode::Allocate),
        Just(FallocateMode::AllocateKeepSize),
        Just(FallocateMode::PunchHole),
        Just(FallocateMode::ZeroRange),
        Just(FallocateMode::ZeroRangeKeepSize),
    ]
}

fn xattr_mode() -> impl Strategy<Value = XattrMode> {
    prop_oneof![
        Just(XattrMode::Set),
        Just(XattrMode::Create),
        Just(XattrMode::Replace)
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    let start = prop_oneof![
        (generation(), any::<bool>()).prop_map(|(generation, clean)| Start::Fresh { generation, clean }),
        (
            generation(),
            proptest::option::of(generation()),
            any::<[bool; 2]>()
        )
            .prop_map(|(generation, base, [overwrite, tracked])| Start::Copy {
                generation,
                base,
                overwrite,
                tracked,
            }),
        prefix().prop_map(|confirmed| Start::Resume { confirmed }),
    ];
    (
        label(),
        label(),
        any::<[u8; 16]>(),
        (start, copy_state()),
        vec(offer(), 0..4),
        identities(),
    )
        .prop_map(
            |(module, node, session, (start, copy), directories, identities)| Hello {
                module,
                node,
                session: SessionId(session),
                start,
                copy: Box::new(copy),
                directories,
                identities,
            },
        )
}

fn copy_state() -> impl Strategy<Value = CopyState> {
    let lines = (
        proptest::option::of(generation()),
        proptest::option::of(generation()),
        vec(generation(), 0..=HISTORY_MAX),
    );
    let changed = any::<[Option<u64>; 2]>().prop_map(|[inodes, bytes]| Change { inodes, bytes });
    (lines, any::<[bool; 8]>(), any::<[u64; 2]>(), changed).prop_map(
        |((generation, base, former), flags, [checkpoint, peer_checkpoint], changed)| CopyState {
            generation,
            base,
            standing: if flags[0] {
                Standing::UpToDate
            } else {
                Standing::Outdated
            },
            copy: flags[1].then_some(CopyKind::Tracked),
            open: flags[2],
            wrote_alone: flags[3],
            tracked: flags[4],
            checkpoint,
            peer_checkpoint,
            last_role: if flags[0] { Role::Primary } else { Role::None },
            rebooted: flags[5],
            remembers: flags[6],
            durability: if flags[1] {
                Durability::Disk
            } else {
                Durability::Memory
            },
            history: {
                let mut history = History::default();
                former.into_iter().for_each(|generation| history.push(generation));
                history
            },
            changed,
            empty: flags[7],
            foreign: flags[2],
        },
    )
}

fn welcome() -> impl Strategy<Value = Welcome> {
    (
        label(),
        prefix(),
        vec(answer(), 0..20),
        vec(number(), 0..20),
        vec(offer(), 0..4),
        identities(),
    )
        .prop_map(
            |(node, prefix, answers, received, directories, identities)| Welcome {
                node,
                prefix,
                answers,
                received,
                directories,
                identities,
            },
        )
}

fn offer() -> impl Strategy<Value = Offer> {
    let sync = prop_oneof![Just(SyncMode::Write), Just(SyncMode::Flush)];
    let durability = prop_oneof![Just(Durability::Disk), Just(Durability::Memory)];
    let top = (0..=0o7777_u32, 0..u32::MAX, 0..u32::MAX, time()).prop_map(|(mode, uid, gid, mtime)| Top {
        mode,
        uid,
        gid,
        mtime,
    });
    (
        text(),
        sync,
        durability,
        any::<bool>(),
        any::<u64>(),
        abilities(),
        top,
        vec("[a-z*/]{0,9}", 0..4),
    )
        .prop_map(
            |(dir, sync, durability, empty, free_bytes, abilities, top, exclude)| Offer {
                dir,
                sync,
                durability,
                empty,
                free_bytes,
                abilities,
                top,
                exclude,
            },
        )
}

fn abilities() -> impl Strategy<Value = Abilities> {
    (
        any::<u32>(),
        any::<u32>(),
        any::<bool>(),
        any::<bool>(),
        any::<u32>(),
        any::<bool>(),
    )
        .prop_map(
            |(name_bytes_max, xattr_bytes_max, acl, handles, time_step_ns, tried)| Abilities {
                name_bytes_max,
                xattr_bytes_max,
                acl,
                handles,
                time_step_ns,
                tried,
            },
        )
}

fn identities() -> impl Strategy<Value = Identities> {
    let names = || vec((any::<u32>(), "[a-z]{1,32}"), 0..5);
    (names(), names()).prop_map(|(users, groups)| Identities { users, groups })
}

fn answer() -> impl Strategy<Value = Answer> {
    let outcome = prop_oneof![
        (any::<u64>(), of(handle()))
            .prop_map(|(length, handle)| Outcome::Applied(Applied { length, handle })),
        errno().prop_map(Outcome::Refused),
        inode().prop_map(Outcome::NotBound),
        errno().prop_map(Outcome::Failed),
    ];
    (number(), outcome, any::<u32>()).prop_map(|(number, outcome, took_us)| Answer {
        number,
        outcome,
        took_us,
    })
}

fn errno() -> impl Strategy<Value = Errno> {
    (1..4096).prop_map(Errno)
}

fn running() -> impl Strategy<Value = Running> {
    (number(), any::<bool>(), any::<u32>()).prop_map(|(number, in_kernel, for_ms)| Running {
        number,
        in_kernel,
        for_ms,
    })
}

fn room() -> impl Strategy<Value = Room> {
    any::<(u64, u64, u64)>().prop_map(|(free_bytes, available_bytes, free_inodes)| Room {
        free_bytes,
        available_bytes,
        free_inodes,
    })
}

fn rejection() -> impl Strategy<Value = Rejection> {
    prop_oneof![
        (text(), text()).prop_map(|(node, state)| Rejection::NotSecondary { node, state }),
        (text(), text()).prop_map(|(ours, theirs)| Rejection::OtherModule { ours, theirs }),
        (text(), text()).prop_map(|(said, proved)| Rejection::OtherNode { said, proved }),
        text().prop_map(Rejection::OtherConfiguration),
        text().prop_map(Rejection::Unfit),
        text().prop_map(Rejection::FullCopyNeeded),
        Just(Rejection::UnknownSession),
        Just(Rejection::StillRunning),
        text().prop_map(Rejection::SplitBrain),
        Just(Rejection::Archiving),
    ]
}
