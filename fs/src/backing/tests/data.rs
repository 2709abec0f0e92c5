//! Data: write, truncate, fallocate, copy, sync, and which descriptors stay open for them.

use super::super::{Access, Sought};
use super::scratch::*;
use crate::operation::*;
use rustix::io::Errno as E;
use std::os::unix::fs::MetadataExt;

fn fallocate(inode: InodeId, mode: FallocateMode, offset: u64, length: u64) -> Operation {
    Operation::Fallocate {
        inode,
        mode,
        offset,
        length,
        time: Some(TIME),
        set_mode: None,
    }
}

fn copy(source: (InodeId, u64), target: (InodeId, u64), length: u64) -> Operation {
    Operation::CopyRange {
        source: source.0,
        source_offset: source.1,
        target: target.0,
        target_offset: target.1,
        length,
        time: Some(TIME),
        set_mode: None,
    }
}

fn resize(inode: InodeId, size: u64) -> Operation {
    let new = Attributes {
        size: Some(size),
        mtime: Some(TIME),
        ..Attributes::default()
    };
    attributes(inode, new)
}

/// Bytes that show where they lie.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 7) as u8 ^ n as u8).collect()
}

#[test]
fn a_write_is_whole_and_leaves_its_time_and_mode() {
    let scratch = Scratch::new();
    let inode = scratch.create(ROOT, "file", NodeKind::File, 0o6777);
    let data = pattern(WRITE_BYTES_MAX);
    let operation = Operation::Write {
        inode,
        offset: 3,
        data: data.clone().into(),
        time: Some(TIME),
        mode: Some(0o777),
    };
    assert_eq!(scratch.applied(&operation).length, data.len() as u64);
    let status = std::fs::metadata(scratch.path("file")).unwrap();
    assert_eq!(status.mode() & 0o7777, 0o777);
    assert_eq!(
        (status.mtime(), status.mtime_nsec()),
        (TIME.seconds, i64::from(TIME.nanoseconds))
    );
    assert_eq!(
        &scratch.store.read(inode, 3, WRITE_BYTES_MAX).unwrap()[..],
        &data[..]
    );
    let end = scratch.store.read(inode, data.len() as u64, 100).unwrap();
    assert_eq!(end.len(), 3);
    assert!(scratch.store.read(inode, u64::MAX, 1).is_err());
}

#[test]
fn reading_leaves_the_access_time_alone() {
    let scratch = Scratch::new();
    let inode = scratch.create(ROOT, "file", NodeKind::File, 0o644);
    scratch.applied(&Operation::Write {
        inode,
        offset: 0,
        data: b"data".to_vec().into(),
        time: Some(TIME),
        mode: None,
    });
    // Older than the change: with "relatime" the next read would set it.
    let old = Timestamp {
        seconds: 1,
        nanoseconds: 2,
    };
    let attributes = Attributes {
        atime: Some(old),
        ..Attributes::default()
    };
    for inode in [inode, ROOT] {
        scratch.applied(&Operation::SetAttributes { inode, attributes });
    }
    // The writer's descriptor would serve the read.
    scratch.applied(&Operation::Checkpoint);
    assert_eq!(&scratch.store.read(inode, 0, 4).unwrap()[..], b"data");
    let listing = scratch.store.open_directory(ROOT).unwrap();
    listing.read(0, |_| std::ops::ControlFlow::Continue(())).unwrap();
    for path in ["file", "."] {
        let status = std::fs::metadata(scratch.path(path)).unwrap();
        assert_eq!((status.atime(), status.atime_nsec()), (1, 2), "{path}");
    }
}

#[test]
fn a_write_beyond_4_gib_leaves_a_hole_that_seek_finds() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"head");
    let far = 5 << 30;
    scratch.applied(&write(inode, far, b"tail"));
    let store = &scratch.store;
    assert_eq!(store.seek(inode, 0, Sought::Hole).unwrap(), 4096);
    assert_eq!(store.seek(inode, 4096, Sought::Data).unwrap(), far);
    assert_eq!(
        store.seek(inode, far + 4, Sought::Data).unwrap_err(),
        errno(E::NXIO)
    );
    assert!(store.status(inode).unwrap().st_blocks < 100);
}

#[test]
fn every_fallocate_mode_does_what_it_says() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", &[7; 16384]);
    let size = |expected: i64| assert_eq!(scratch.store.status(inode).unwrap().st_size, expected);
    scratch.applied(&fallocate(inode, FallocateMode::AllocateKeepSize, 0, 1 << 20));
    size(16384);
    assert!(scratch.store.status(inode).unwrap().st_blocks >= 2048);
    scratch.applied(&fallocate(inode, FallocateMode::Allocate, 0, 32768));
    size(32768);
    scratch.applied(&fallocate(inode, FallocateMode::PunchHole, 4096, 4096));
    assert_eq!(&scratch.store.read(inode, 4095, 2).unwrap()[..], &[7, 0]);
    assert_eq!(scratch.store.seek(inode, 0, Sought::Hole).unwrap(), 4096);
    scratch.applied(&fallocate(inode, FallocateMode::ZeroRangeKeepSize, 8190, 4));
    assert_eq!(&scratch.store.read(inode, 8191, 4).unwrap()[..], &[0, 0, 0, 7]);
    scratch.applied(&fallocate(inode, FallocateMode::ZeroRange, 32000, 1000));
    size(33000);
    let none = fallocate(inode, FallocateMode::Allocate, 0, 0);
    assert_eq!(scratch.store.apply(&none), Outcome::Refused(errno(E::INVAL)));
}

#[test]
fn a_copy_is_whole_between_files_and_within_one() {
    let scratch = Scratch::new();
    let data = pattern(300_000);
    let source = scratch.file("source", &data);
    let target = scratch.file("target", b"");
    assert_eq!(
        scratch
            .applied(&copy((source, 1000), (target, 5), 250_000))
            .length,
        250_000
    );
    let copied = scratch.store.read(target, 5, 300_000).unwrap();
    assert_eq!(&copied[..], &data[1000..251_000]);
    scratch.applied(&copy((source, 0), (source, 200_000), 100_000));
    assert_eq!(
        &scratch.store.read(source, 200_000, 100_000).unwrap()[..],
        &data[..100_000]
    );
    let overlapping = copy((source, 0), (source, 10), 100);
    assert_eq!(
        scratch.store.apply(&overlapping),
        Outcome::Refused(errno(E::INVAL))
    );
    // The source was cut after the copy was asked for.
    let beyond = copy((source, 299_999), (target, 0), 2);
    assert_eq!(scratch.store.would_refuse(&beyond), Some(errno(E::XDEV)));
    assert_eq!(scratch.store.apply(&beyond), Outcome::Refused(errno(E::XDEV)));
}

#[test]
fn a_change_without_a_time_leaves_the_time() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"content");
    let before = scratch.store.status(inode).unwrap();
    let changes = [
        Operation::Write {
            inode,
            offset: 0,
            data: b"new".as_slice().into(),
            time: None,
            mode: None,
        },
        Operation::Fallocate {
            inode,
            mode: FallocateMode::Allocate,
            offset: 0,
            length: 9000,
            time: None,
            set_mode: None,
        },
    ];
    for change in changes {
        scratch.applied(&change);
        let after = scratch.store.status(inode).unwrap();
        assert_eq!(
            (after.st_mtime, after.st_mtime_nsec),
            (before.st_mtime, before.st_mtime_nsec)
        );
    }
}

#[test]
fn a_truncate_grows_by_a_hole_and_keeps_the_given_time() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"content");
    scratch.applied(&resize(inode, 1 << 20));
    let status = scratch.store.status(inode).unwrap();
    assert_eq!(
        (status.st_size, status.st_mtime, status.st_mtime_nsec as u32),
        (1 << 20, TIME.seconds, TIME.nanoseconds)
    );
    scratch.applied(&resize(inode, 3));
    assert_eq!(std::fs::read(scratch.path("file")).unwrap(), b"con");
}

#[test]
fn data_operations_refuse_what_is_no_file() {
    let scratch = Scratch::new();
    let directory = scratch.directory(ROOT, "directory");
    let symlink = scratch.create(ROOT, "symlink", NodeKind::Symlink("x".into()), 0o777);
    let fifo = scratch.create(ROOT, "fifo", NodeKind::Fifo, 0o644);
    let device = scratch.create(ROOT, "device", NodeKind::CharacterDevice(0x0105), 0o644);
    scratch.refused(&write(directory, 0, b"x"), E::ISDIR);
    scratch.refused(&resize(directory, 0), E::ISDIR);
    scratch.refused(&write(symlink, 0, b"x"), E::LOOP);
    for special in [fifo, device] {
        assert_eq!(
            scratch.store.apply(&write(special, 0, b"x")),
            Outcome::Refused(errno(E::INVAL))
        );
        assert_eq!(
            scratch.store.file(special, Access::Read).unwrap_err(),
            errno(E::INVAL)
        );
        scratch.applied(&Operation::Sync {
            inode: special,
            data_only: false,
        });
    }
}

#[test]
fn a_written_inode_keeps_its_descriptor_until_a_sync_covers_it() {
    let scratch = Scratch::new();
    let written = || scratch.store.durable.written.count();
    let one = scratch.file("one", b"1");
    let two = scratch.file("two", b"2");
    let directory = scratch.directory(ROOT, "directory");
    assert_eq!(written(), 2);
    scratch.applied(&Operation::Sync {
        inode: one,
        data_only: true,
    });
    assert_eq!(written(), 1);
    scratch.applied(&Operation::Sync {
        inode: directory,
        data_only: false,
    });
    scratch.store.forget(&[two]);
    assert_eq!(written(), 1, "forgotten, not synced");
    scratch.applied(&write(one, 0, b"11"));
    scratch.applied(&Operation::Checkpoint);
    assert_eq!(written(), 0);
}

#[test]
fn descriptors_stay_bounded_however_many_files_are_written_and_read() {
    let scratch = Scratch::new();
    let count = 3000;
    let inodes: Vec<_> = (0..count)
        .map(|n| scratch.file(&format!("file-{n}"), b"x"))
        .collect();
    let (cached, held) = scratch.store.descriptors.counts();
    assert!(cached <= 1024, "{cached}");
    assert_eq!(held, 1, "the root's");
    scratch.applied(&Operation::Checkpoint);
    assert_eq!(scratch.store.durable.written.count(), 0);
    for inode in &inodes {
        assert_eq!(&scratch.store.read(*inode, 0, 9).unwrap()[..], b"x");
    }
    scratch.store.forget(&inodes);
    assert_eq!(scratch.store.descriptors.counts(), (0, 1));
}

#[test]
fn too_many_written_inodes_are_synced_without_being_asked() {
    let mut scratch = Scratch::new();
    scratch.store.limit_written(10);
    for n in 0..100 {
        scratch.file(&format!("file-{n}"), b"x");
        assert!(scratch.store.durable.written.count() <= 21);
    }
}

/// A file system of 16 MiB on a loop device, in a mount namespace of the calling thread.
fn small_disk(dir: &std::path::Path) {
    private_mounts();
    let image = dir.join("image");
    std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let output = std::process::Command::new(program)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
    };
    run(
        "mkfs.ext4",
        &["-q".as_ref(), "-m".as_ref(), "0".as_ref(), image.as_os_str()],
    );
    std::fs::create_dir(dir.join("disk")).unwrap();
    run(
        "mount",
        &[
            "-o".as_ref(),
            "loop".as_ref(),
            image.as_os_str(),
            dir.join("disk").as_os_str(),
        ],
    );
}

#[test]
fn a_full_disk_refuses_and_leaves_everything_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let in_namespace = move || {
        small_disk(&path);
        let scratch = Scratch::over(&path.join("disk"));
        let old = Timestamp {
            seconds: 5,
            nanoseconds: 6,
        };
        let inode = scratch.file("file", b"content");
        let kept = scratch.file("kept", &[1; 4096]);
        for inode in [inode, kept] {
            scratch.applied(&attributes(
                inode,
                Attributes {
                    mtime: Some(old),
                    ..Attributes::default()
                },
            ));
        }

        let big = fallocate(inode, FallocateMode::Allocate, 0, 64 << 20);
        assert_eq!(scratch.store.apply(&big), Outcome::Refused(errno(E::NOSPC)));
        let filler = scratch.create(ROOT, "filler", NodeKind::File, 0o644);
        let mut offset = 0;
        let chunk = vec![9; 1 << 20];
        loop {
            match scratch.store.apply(&write(filler, offset, &chunk)) {
                Outcome::Applied(applied) => offset += applied.length,
                Outcome::Failed(reason) | Outcome::Refused(reason) => {
                    assert_eq!(reason, errno(E::NOSPC));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        offset = scratch.store.status(filler).unwrap().st_size as u64;
        while let Outcome::Applied(applied) = scratch.store.apply(&write(filler, offset, &chunk[..4096])) {
            offset += applied.length;
        }
        assert_eq!(
            scratch.store.lacks_room(&write(kept, 0, b"here")),
            None,
            "written over"
        );
        assert_eq!(
            scratch.store.lacks_room(&write(kept, 4096, &chunk[..8192])),
            Some(errno(E::NOSPC))
        );
        let create = scratch.create_operation(ROOT, "directory", NodeKind::Directory, 0o755);
        assert_eq!(
            scratch.store.lacks_room(&Operation::Create(create)),
            Some(errno(E::NOSPC))
        );
        let more = write(kept, 4096, &chunk[..8192]);
        assert_eq!(scratch.store.apply(&more), Outcome::Refused(errno(E::NOSPC)));
        for (inode, size) in [(inode, 7), (kept, 4096)] {
            let status = scratch.store.status(inode).unwrap();
            assert_eq!(
                (status.st_size, status.st_mtime, status.st_mtime_nsec as u32),
                (size, 5, 6)
            );
        }
    };
    std::thread::spawn(in_namespace).join().unwrap();
}

#[test]
fn a_size_beyond_the_file_systems_limit_is_refused_on_both_nodes_alike() {
    let scratch = Scratch::new();
    let file = scratch.file("file", b"content");
    let far = Operation::SetAttributes {
        inode: file,
        attributes: Attributes {
            size: Some(999_999_999_999_999),
            ..Attributes::default()
        },
    };
    let too_big = errno(rustix::io::Errno::FBIG);
    assert_eq!(scratch.store.apply(&far), Outcome::Refused(too_big));
    assert_eq!(scratch.store.refusal_like(&far, too_big), Some(too_big));
    let near = Operation::SetAttributes {
        inode: file,
        attributes: Attributes {
            size: Some(1 << 30),
            ..Attributes::default()
        },
    };
    assert_eq!(scratch.store.refusal_like(&near, too_big), None);
    assert_eq!(std::fs::read(scratch.path("file")).unwrap(), b"content");
}

#[test]
fn a_size_without_a_time_leaves_the_time() {
    let scratch = Scratch::new();
    let file = scratch.file("file", b"content");
    let before = std::fs::metadata(scratch.path("file")).unwrap();
    for size in [7, 3, 3, 100] {
        scratch.applied(&Operation::SetAttributes {
            inode: file,
            attributes: Attributes {
                size: Some(size),
                ..Attributes::default()
            },
        });
        let after = std::fs::metadata(scratch.path("file")).unwrap();
        assert_eq!(after.len(), size);
        assert_eq!(
            (after.mtime(), after.mtime_nsec()),
            (before.mtime(), before.mtime_nsec()),
            "{size}"
        );
    }
}

#[test]
fn a_number_that_becomes_another_file_is_that_file_for_every_later_change() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"before");
    // Its descriptor waits for a sync.
    scratch.applied(&write(inode, 0, b"written"));
    std::fs::remove_file(scratch.path("file")).unwrap();
    std::fs::write(scratch.path("file"), "replaced").unwrap();
    scratch.applied(&Operation::Bind {
        inode,
        parent: ROOT,
        name: name("file"),
        handle: crate::session::names::unfilled_handle(),
    });
    let size = Attributes {
        size: Some(3),
        ..Attributes::default()
    };
    scratch.applied(&attributes(inode, size));
    scratch.applied(&write(inode, 3, b"!"));
    assert_eq!(std::fs::read(scratch.path("file")).unwrap(), b"rep!");
    scratch.applied(&Operation::Checkpoint);
}
