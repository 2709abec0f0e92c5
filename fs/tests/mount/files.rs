//! Files, directories and names.

use crate::scene::Scene;
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use skfs::config::SyncMode;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

type Outcome = anyhow::Result<()>;

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

#[test]
fn an_unlinked_file_stays_usable_while_it_is_open() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    let path = scene.dir.join("file");
    let file = open(&path)?;
    file.write_all_at(b"hello", 0)?;
    fs::remove_file(&path)?;
    file.write_all_at(b"J", 0)?;
    let mut content = [0; 5];
    file.read_exact_at(&mut content, 0)?;
    assert_eq!(&content, b"Jello");
    file.set_len(2)?;
    file.sync_all()?;
    let status = file.metadata()?;
    assert_eq!((status.len(), status.nlink()), (2, 0));
    Ok(())
}

#[test]
fn a_file_replaced_by_a_rename_stays_usable_while_it_is_open() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    let (old, new) = (scene.dir.join("old"), scene.dir.join("new"));
    fs::write(&old, "old")?;
    fs::write(&new, "new")?;
    let mut replaced = File::open(&old)?;
    fs::rename(&new, &old)?;
    let mut content = String::new();
    replaced.read_to_string(&mut content)?;
    assert_eq!(
        (content.as_str(), fs::read_to_string(&old)?.as_str()),
        ("old", "new")
    );
    Ok(())
}

#[test]
fn hard_links_share_one_inode() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    let (first, second) = (scene.dir.join("first"), scene.dir.join("second"));
    fs::write(&first, "content")?;
    fs::hard_link(&first, &second)?;
    let (one, two) = (fs::metadata(&first)?, fs::metadata(&second)?);
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    assert_eq!(one.ino(), fs::metadata(scene.backing.join("second"))?.ino());
    fs::remove_file(&first)?;
    assert_eq!(fs::metadata(&second)?.nlink(), 1);
    assert_eq!(fs::read_to_string(&second)?, "content");
    Ok(())
}

#[test]
fn renames_exchange_and_refuse_as_on_a_plain_directory() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.join(name));
        fs::write(&a, "a")
            .and_then(|()| fs::write(&b, "b"))
            .expect("two files");
        let refused = rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE);
        let exchanged = rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE);
        let missing = rustix::fs::renameat_with(CWD, &a, CWD, &c, RenameFlags::EXCHANGE);
        (refused, exchanged, missing, fs::read(&a).ok(), fs::read(&b).ok())
    });
    let whiteout = rustix::fs::renameat_with(
        CWD,
        scene.dir.join("a"),
        CWD,
        scene.dir.join("c"),
        RenameFlags::WHITEOUT,
    );
    assert_eq!(whiteout, Err(Errno::INVAL));
    Ok(())
}

#[test]
fn names_are_any_bytes_up_to_255() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    let longest: Vec<u8> = (1..=255)
        .map(|byte| if byte == b'/' { b'x' } else { byte })
        .collect();
    scene.same(|dir| {
        let made = fs::write(dir.join(OsStr::from_bytes(&longest)), "x").is_ok();
        let too_long =
            fs::write(dir.join(OsStr::from_bytes(&[b'n'; 256])), "x").map_err(|error| error.raw_os_error());
        let names: Vec<_> = fs::read_dir(dir)
            .expect("a listing")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        (made, too_long, names)
    });
    Ok(())
}

#[test]
fn a_directory_is_read_whole_while_it_changes() -> Outcome {
    const ENTRIES: usize = 5000;
    let scene = Scene::new(SyncMode::Write)?;
    let dir = scene.dir.join("many");
    fs::create_dir(&dir)?;
    // Made past the mount, which has not looked there yet.
    for number in 0..ENTRIES {
        File::create(scene.backing.join("many").join(format!("stays{number}")))?;
    }
    let mut seen = Vec::new();
    for (number, entry) in fs::read_dir(&dir)?.enumerate() {
        let entry = entry?;
        seen.push(entry.file_name());
        if number % 50 == 0 {
            entry.metadata()?;
            let passing = dir.join(format!("passing{number}"));
            File::create(&passing)?;
            fs::remove_file(&passing)?;
        }
    }
    seen.retain(|name| name.as_bytes().starts_with(b"stays"));
    assert_eq!(seen.len(), ENTRIES, "each once");
    assert_eq!(
        seen.into_iter().collect::<BTreeSet<_>>().len(),
        ENTRIES,
        "each entry"
    );
    Ok(())
}

#[test]
fn shared_mappings_reach_the_directory() -> Outcome {
    const LENGTH: usize = 1 << 16;
    for sync in [SyncMode::Write, SyncMode::Flush] {
        let scene = Scene::new(sync)?;
        let file = open(&scene.dir.join("file"))?;
        file.set_len(LENGTH as u64)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that keeps its length.
        let mapped = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                LENGTH,
                protection,
                MapFlags::SHARED,
                &file,
                0,
            )
        }?;
        // SAFETY: inside the mapping, which nobody else uses.
        unsafe { mapped.cast::<u8>().add(9000).write(7) };
        // A hole would be skipped by whoever copies the file.
        let data = rustix::fs::seek(&file, SeekFrom::Data(0))?;
        assert!((8192..=9000).contains(&data), "data at {data}");
        // SAFETY: the whole mapping, used no more.
        unsafe { rustix::mm::munmap(mapped, LENGTH) }?;
        file.sync_data()?;
        assert_eq!(fs::read(scene.backing.join("file"))?[9000], 7);
    }
    Ok(())
}

#[test]
fn direct_writes_and_reads_pass() -> Outcome {
    const BLOCK: usize = 4096;
    let scene = Scene::new(SyncMode::Write)?;
    let path = scene.dir.join("file");
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(&path)?;
    let memory = vec![5; 3 * BLOCK];
    let start = memory.as_ptr().align_offset(BLOCK);
    direct.write_all_at(&memory[start..start + BLOCK], 0)?;
    direct.write_all_at(&memory[start..start + BLOCK], BLOCK as u64)?;
    assert_eq!(fs::read(scene.backing.join("file"))?, vec![5; 2 * BLOCK]);
    Ok(())
}

#[test]
fn holes_and_allocations_are_as_on_a_plain_directory() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        let file = open(&dir.join("file")).expect("a file");
        file.write_all_at(&[1; 65536], 0).expect("64 KiB");
        let modes = [
            (FallocateFlags::KEEP_SIZE, 65536, 65536),
            (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8192, 8192),
            (FallocateFlags::ZERO_RANGE, 32768, 4096),
            (FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 100, 50),
            (FallocateFlags::empty(), 65536, 100),
            (FallocateFlags::PUNCH_HOLE, 0, 4096),
        ];
        let results: Vec<_> = modes
            .into_iter()
            .map(|(mode, offset, length)| {
                let result = rustix::fs::fallocate(&file, mode, offset, length);
                (
                    result,
                    file.metadata().map(|status| (status.len(), status.blocks())).ok(),
                )
            })
            .collect();
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(0));
        (results, hole, fs::read(dir.join("file")).ok())
    });
    let file = open(&scene.dir.join("file"))?;
    let collapse = rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(Errno::OPNOTSUPP), "FUSE does not carry it");
    Ok(())
}

#[test]
fn a_range_is_copied_up_to_the_end_of_its_source() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        fs::write(dir.join("source"), vec![3; 10_000]).expect("a source");
        let source = open(&dir.join("source")).expect("the source");
        let target = open(&dir.join("target")).expect("a target");
        let (mut from, mut to) = (4000, 100);
        let first = rustix::fs::copy_file_range(&source, Some(&mut from), &target, Some(&mut to), 1 << 20);
        let second = rustix::fs::copy_file_range(&source, Some(&mut from), &target, Some(&mut to), 1 << 20);
        (first, second, fs::read(dir.join("target")).ok())
    });
    Ok(())
}

#[test]
fn times_are_kept_to_the_nanosecond_also_before_1970() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        let path = dir.join("file");
        fs::write(&path, "x").expect("a file");
        [(-2, 800_000_000), (0, 1), (1_600_000_000, 999_999_999)].map(|(tv_sec, tv_nsec)| {
            let time = rustix::fs::Timespec { tv_sec, tv_nsec };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).expect("new times");
            let status = fs::metadata(&path).expect("a status");
            (
                status.mtime(),
                status.mtime_nsec(),
                status.atime(),
                status.atime_nsec(),
            )
        })
    });
    Ok(())
}

#[test]
fn the_earliest_and_latest_times_do_no_harm() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        let path = dir.join("file");
        fs::write(&path, "x").expect("a file");
        [i64::MIN, i64::MIN + 1, i64::MAX].map(|tv_sec| {
            let time = rustix::fs::Timespec { tv_sec, tv_nsec: 5 };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            let set = rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty());
            let status = fs::metadata(&path).expect("a status");
            (set, status.mtime())
        })
    });
    Ok(())
}

#[test]
fn special_files_keep_type_and_device() -> Outcome {
    use rustix::fs::FileType;
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        let kinds = [
            FileType::Fifo,
            FileType::Socket,
            FileType::CharacterDevice,
            FileType::BlockDevice,
        ];
        kinds.map(|kind| {
            let path = dir.join(format!("{kind:?}"));
            let device = rustix::fs::makedev(259, 300);
            let made = rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o640), device);
            let status = fs::symlink_metadata(&path).expect("a status");
            (made, status.mode(), status.rdev())
        })
    });
    Ok(())
}

#[test]
fn extended_attributes_are_as_on_a_plain_directory() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        let path = dir.join("file");
        fs::write(&path, "x").expect("a file");
        let set = |name: &str, flags| rustix::fs::setxattr(&path, name, b"value", flags);
        let results = [
            set("user.a", XattrFlags::empty()),
            set("user.a", XattrFlags::CREATE),
            set("user.b", XattrFlags::REPLACE),
            set("trusted.c", XattrFlags::CREATE),
            rustix::fs::removexattr(&path, "user.none"),
        ];
        let mut small = [0; 2];
        let too_small = rustix::fs::getxattr(&path, "user.a", &mut small[..]);
        let size = rustix::fs::getxattr_query(&path, "user.a");
        let mut names = [0; 200];
        let length = rustix::fs::listxattr(&path, &mut names[..]);
        (results, too_small, size, length)
    });
    Ok(())
}

#[test]
fn the_reserved_directory_is_not_there() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    let reserved = scene.backing.join(".sidekick");
    fs::create_dir_all(&reserved)?;
    let shown = scene.dir.join(".sidekick");
    assert_eq!(
        fs::metadata(&shown).map_err(|error| error.kind()).err(),
        Some(std::io::ErrorKind::NotFound)
    );
    assert!(fs::create_dir(&shown).is_err() && fs::write(&shown, "x").is_err());
    assert!(
        fs::read_dir(&scene.dir)?
            .flatten()
            .all(|entry| entry.file_name() != ".sidekick")
    );
    fs::create_dir(scene.dir.join("below"))?;
    fs::create_dir(scene.dir.join("below/.sidekick"))?;
    Ok(())
}

#[test]
fn appending_processes_do_not_overwrite_each_other() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    let path = scene.dir.join("log");
    std::thread::scope(|scope| {
        for writer in 0..4_u8 {
            let path = &path;
            scope.spawn(move || {
                let mut log = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .expect("the log");
                for _ in 0..200 {
                    log.write_all(&[writer; 10]).expect("an append");
                }
            });
        }
    });
    let content = fs::read(&path)?;
    assert_eq!(content.len(), 4 * 200 * 10);
    assert!(
        content
            .chunks(10)
            .all(|line| line.iter().all(|byte| *byte == line[0]))
    );
    Ok(())
}

#[test]
fn a_scanned_tree_leaves_nothing_in_the_table() -> Outcome {
    let mut scene = Scene::new(SyncMode::Write)?;
    for number in 0..300 {
        fs::write(scene.dir.join(number.to_string()), "x")?;
    }
    for entry in fs::read_dir(&scene.dir)? {
        entry?.metadata()?;
    }
    let descriptors = fs::read_dir("/proc/self/fd")?.count();
    for number in 0..300 {
        fs::remove_file(scene.dir.join(number.to_string()))?;
    }
    crate::scene::wait_for("deleted files are let go of", || {
        fs::read_dir("/proc/self/fd").is_ok_and(|now| now.count() <= descriptors)
    });
    scene.mounted.unmount()?;
    Ok(())
}

#[test]
fn a_running_program_is_neither_written_nor_truncated() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    let program = scene.dir.join("sleep");
    fs::copy("/bin/sleep", &program)?;
    let before = fs::read(&program)?;
    let mut running = std::process::Command::new(&program).arg("60").spawn()?;
    let busy = |flags: OFlags| {
        rustix::fs::open(&program, flags, Mode::empty()).map(drop) == Err(rustix::io::Errno::TXTBSY)
    };
    let refused = [OFlags::WRONLY, OFlags::RDONLY | OFlags::TRUNC, OFlags::RDWR].map(busy);
    let content = fs::read(&program)?;
    running.kill()?;
    running.wait()?;
    assert_eq!(refused, [true; 3]);
    assert!(
        content == before,
        "the program has {} bytes instead of {}",
        content.len(),
        before.len()
    );
    Ok(())
}
