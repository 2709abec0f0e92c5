//! Directories that grow at random, by the means of the file system itself.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags,
};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

/// What is done, to what and how, by choice among what there is at that time.
#[derive(Clone, Debug)]
pub(super) struct Step {
    what: u8,
    one: u8,
    other: u8,
    name: u8,
    number: u32,
}

/// One named user, whose rights are at byte 14 (linux/posix_acl_xattr.h).
const ACL: [u8; 44] = [
    2, 0, 0, 0, // version
    0x01, 0, 6, 0, 0xFF, 0xFF, 0xFF, 0xFF, // owner
    0x02, 0, 4, 0, 1, 0, 0, 0, // user 1
    0x04, 0, 4, 0, 0xFF, 0xFF, 0xFF, 0xFF, // group
    0x10, 0, 4, 0, 0xFF, 0xFF, 0xFF, 0xFF, // mask
    0x20, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, // others
];

pub(super) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = any::<(u8, u8, u8, u8, u32)>().prop_map(|(what, one, other, name, number)| Step {
        what,
        one,
        other,
        name,
        number,
    });
    proptest::collection::vec(step, 0..most)
}

pub(super) fn grow(top: &Path, steps: &[Step]) {
    for step in steps {
        // Whatever cannot be done, as removing a directory that holds something, is not.
        take(top, step).ok();
    }
}

fn take(top: &Path, step: &Step) -> std::io::Result<()> {
    let all = walk(top);
    let directories: Vec<_> = all
        .iter()
        .filter(|path| path.is_dir() && !path.is_symlink())
        .collect();
    let names: [&[u8]; 6] = [b"a", b"b", b"c", b"\xff\xfe\n", b"d", b".sidekicks"];
    let directory = directories[usize::from(step.one) % directories.len()];
    let new = directory.join(OsStr::from_bytes(names[usize::from(step.name) % names.len()]));
    let old = &all[usize::from(step.other) % all.len()];
    if old == top && matches!(step.what % 20, 4..=9 | 12 | 13) {
        return Ok(());
    }
    match step.what % 20 {
        0 | 1 => fs::create_dir(new),
        2 => symlink(
            if step.number.is_multiple_of(2) {
                "a"
            } else {
                "../b"
            },
            new,
        ),
        3 => {
            let kind =
                [FileType::Fifo, FileType::Socket, FileType::CharacterDevice][step.number as usize % 3];
            let device = u64::from(step.number % 2) + 0x0103;
            Ok(rustix::fs::mknodat(CWD, new, kind, Mode::RUSR, device)?)
        }
        4 => fs::hard_link(old, new),
        5 => fs::rename(old, new),
        6 | 7 => Ok(rustix::fs::renameat_with(
            CWD,
            old,
            CWD,
            new,
            RenameFlags::EXCHANGE,
        )?),
        8 => fs::remove_file(old),
        9 => fs::remove_dir(old),
        10 | 11 => write(&new, step),
        12 | 13 => write(old, step),
        14 => lchown(old, Some(step.number % 3), Some(step.number % 5)),
        15 => fs::set_permissions(old, fs::Permissions::from_mode(step.number & 0o7777)),
        16 => Ok(rustix::fs::lsetxattr(
            old,
            ["user.one", "trusted.two", "security.three"][step.number as usize % 3],
            &step.number.to_le_bytes()[..step.name as usize % 4],
            XattrFlags::empty(),
        )?),
        17 => {
            let acl = ["system.posix_acl_access", "system.posix_acl_default"][step.number as usize % 2];
            let mut value = ACL;
            value[14] = step.name % 8;
            Ok(rustix::fs::lsetxattr(old, acl, &value, XattrFlags::empty())?)
        }
        18 => {
            let time = Timespec {
                tv_sec: i64::from(step.number),
                tv_nsec: i64::from(step.number % 1000),
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            Ok(rustix::fs::utimensat(
                CWD,
                old,
                &times,
                AtFlags::SYMLINK_NOFOLLOW,
            )?)
        }
        _ => Ok(rustix::fs::lremovexattr(old, "user.one")?),
    }
}

/// Data, a hole, an allocation, or another size.
fn write(path: &Path, step: &Step) -> std::io::Result<()> {
    if path.is_symlink() || (path.exists() && !path.is_file()) {
        return Ok(());
    }
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    let offset = u64::from(step.number % 20) * 10_000;
    let length = u64::from(step.number % 7) * 30_000 + 1;
    match step.number % 5 {
        0 => file.set_len(offset),
        1 => Ok(rustix::fs::fallocate(
            &file,
            FallocateFlags::empty(),
            offset,
            length,
        )?),
        2 => {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(rustix::fs::fallocate(&file, punch, offset, length)?)
        }
        3 => file.write_all_at(&vec![0; length as usize], offset),
        _ => file.write_all_at(&vec![step.name; length as usize], offset),
    }
}

fn walk(top: &Path) -> Vec<PathBuf> {
    let mut all = vec![top.to_owned()];
    let mut next = 0;
    while let Some(path) = all.get(next).cloned() {
        next += 1;
        if path.is_dir() && !path.is_symlink() {
            let below = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            let mut below: Vec<_> = below
                .filter(|path| path.file_name() != Some(OsStr::new(".sidekick")))
                .collect();
            below.sort();
            all.extend(below);
        }
    }
    all
}

/// The copies are worth little if nothing comes up.
#[test]
fn gardens_grow() {
    let dir = tempfile::tempdir().unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = proptest::collection::vec(steps(60), 30);
    let all = strategy.new_tree(&mut runner).unwrap().current();
    let steps: Vec<_> = all.into_iter().flatten().collect();
    let (mut most, mut kinds) = (0, BTreeSet::new());
    for step in steps {
        grow(dir.path(), &[step]);
        let paths = walk(dir.path());
        most = most.max(paths.len());
        kinds.extend(
            paths
                .iter()
                .map(|path| path.symlink_metadata().unwrap().mode() >> 12),
        );
    }
    assert!(most > 20 && kinds.len() == 6, "{most} names of kinds {kinds:?}");
}
