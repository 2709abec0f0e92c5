//! What an application may do with files, on a real mirror: as on a plain directory, and the same on both
//! copies afterwards. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod pair;

use lab::mirror::MirrorOptions;
use pair::Pair;
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use skfs::config::SyncMode;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

fn pair() -> Pair {
    Pair::up(&MirrorOptions::default())
}

fn write_back_pair() -> Pair {
    Pair::up(&MirrorOptions {
        sync: SyncMode::Flush,
        ..MirrorOptions::default()
    })
}

/// Runs `check` in the plain directory and then in the mirror; what it gives must be the same.
fn same_in_both<T: PartialEq + std::fmt::Debug + Send>(pair: &Pair, check: impl Fn(&Path) -> T + Sync) {
    let plain = pair.within(|| check(&pair.plain));
    let mirror = pair.within(|| check(&pair.dir));
    assert_eq!(mirror, plain, "the mirror, and the plain directory");
}

#[test]
fn users_groups_and_acls_decide_as_on_a_plain_directory() {
    let pair = pair();
    // uid 1 in group 65534, uid 65534, and uid 77 in no group of interest.
    let script = r#"
        umask 022
        as() { who=$1; shift; setpriv $who --clear-groups sh -c "$*" && echo "yes $*" || echo "no $*"; }
        member() { setpriv --reuid=77 --regid=77 --groups=500,501 sh -c "$*" && echo "yes $*" || echo "no $*"; }
        stranger() { as '--reuid=77 --regid=77' "$@"; }
        named() { as '--reuid=78 --regid=78' "$@"; }
        exec 2>/dev/null
        mkdir of-group; chgrp 501 of-group; chmod 2770 of-group
        member 'touch of-group/file; mkdir of-group/sub'; stranger 'touch of-group/other'
        stat -c '%n %a %u %g' of-group of-group/*
        mkdir sticky; chmod 1777 sticky; member 'touch sticky/mine'; stranger 'rm -f sticky/mine'; named 'rm -f sticky/mine'
        echo secret > file; chmod 640 file; chgrp 500 file
        member 'cat file'; member 'echo more >> file'; stranger 'cat file'; named 'cat file'
        setfacl -m u:78:rw,g:501:r file; named 'cat file'; named 'echo more >> file'; stranger 'cat file'
        getfacl -n file; stat -c '%a' file
        chmod 600 file; named 'cat file'; getfacl -n file
        mkdir inherits; setfacl -d -m u:78:rwx,o::- inherits; chmod 777 inherits
        member 'echo x > inherits/file; mkdir inherits/sub; mkfifo inherits/fifo'
        getfacl -n -R inherits
        setfacl -b file; getfacl -n file
        setfattr -n user.a -v one file; setfattr -n trusted.b -v two file; setfattr -n security.c -v three file
        getfattr -d -m - file; stranger 'getfattr -d -m - file'; stranger 'setfattr -n user.a -v no file'
        ln -s file link; setfattr -h -n trusted.on-link -v x link; getfattr -h -d -m - link
        cp /bin/true tool; chmod 6755 tool; chown 77:500 tool; stat -c %a tool; chmod 6755 tool
        member 'echo x >> tool'; stat -c %a tool
        chmod 6777 tool; named 'echo x >> tool'; stat -c %a tool
        chmod 2666 tool; named 'echo x >> tool'; stat -c %a tool
    "#;
    let [plain, mirror] =
        [&pair.plain, &pair.dir].map(|dir| pair.run_in("a", dir, &script.replace("set -e", "")));
    assert!(
        plain.contains("yes cat file") && plain.contains("no cat file"),
        "{plain}"
    );
    assert_eq!(mirror, plain);
    pair.assert_in_sync();
    assert_eq!(pair.differences_to_plain("b"), [] as [&str; 0]);
    let on_secondary = pair.backing("b");
    let acl = |dir: &Path| {
        pair.run_in(
            "b",
            dir,
            "getfacl -n -R * | sed 's/^# file.*//'; getfattr -d -R -m - *",
        )
    };
    assert_eq!(acl(&on_secondary), acl(&pair.plain));
}

/// The content of a file, as runs of equal bytes.
fn content(path: &Path) -> Vec<(u8, usize)> {
    let mut runs: Vec<(u8, usize)> = Vec::new();
    for byte in fs::read(path).unwrap() {
        match runs.last_mut() {
            Some((same, count)) if *same == byte => *count += 1,
            _ => runs.push((byte, 1)),
        }
    }
    runs
}

/// What came of an allocation.
#[derive(Debug, PartialEq)]
struct Allocation {
    result: Result<(), Errno>,
    /// Where data and holes are.
    found: Vec<Result<u64, Errno>>,
    content: Vec<(u8, usize)>,
}

fn allocations(dir: &Path) -> Vec<Allocation> {
    const PAGE: u64 = 4096;
    let keep = FallocateFlags::KEEP_SIZE;
    let modes = [
        (FallocateFlags::empty(), 10 * PAGE + 7, 3 * PAGE),
        (keep, 20 * PAGE, 3 * PAGE),
        (FallocateFlags::PUNCH_HOLE | keep, 100, 2 * PAGE),
        (FallocateFlags::PUNCH_HOLE | keep, 5 * PAGE, 100 * PAGE),
        (FallocateFlags::PUNCH_HOLE, 0, PAGE),
        (FallocateFlags::ZERO_RANGE, PAGE / 2, PAGE),
        (FallocateFlags::ZERO_RANGE, 7 * PAGE, 3 * PAGE),
        (FallocateFlags::ZERO_RANGE | keep, 7 * PAGE, 9 * PAGE),
        (FallocateFlags::empty(), 0, 0),
    ];
    let path = dir.join("allocated");
    modes
        .into_iter()
        .map(|(mode, offset, length)| {
            fs::write(&path, vec![0xa5; 8 * PAGE as usize]).unwrap();
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            // What is not allocated yet counts as a hole or not by rules of ext4's own.
            file.sync_all().unwrap();
            let result = rustix::fs::fallocate(&file, mode, offset, length);
            let seek = |from: fn(u64) -> SeekFrom, at| rustix::fs::seek(&file, from(at));
            let found = [0, 100, 4 * PAGE, 7 * PAGE, 12 * PAGE, 40 * PAGE]
                .into_iter()
                .flat_map(|at| [seek(SeekFrom::Data, at), seek(SeekFrom::Hole, at)])
                .collect();
            Allocation {
                result,
                found,
                content: content(&path),
            }
        })
        .collect()
}

#[test]
fn allocating_punching_and_zeroing_give_what_they_give_on_a_plain_directory() {
    for pair in [pair(), write_back_pair()] {
        same_in_both(&pair, allocations);
        // Each mode's result stays to be compared, holes included.
        pair.run(
            "for i in 1 2 3; do head -c 65536 /dev/urandom > f$i; done; fallocate -p -o 4096 -l 8192 f1; \
                  fallocate -z -o 100 -l 20000 f2; fallocate -l 1M f3; fallocate -n -o 2M -l 1M f3",
        );
        pair.assert_in_sync();
    }
}

#[test]
fn what_the_kernel_cannot_carry_is_refused_with_the_documented_error() {
    let pair = pair();
    pair.within(|| {
        let file = File::create_new(pair.dir.join("file")).unwrap();
        file.set_len(1 << 20).unwrap();
        for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
            assert_eq!(rustix::fs::fallocate(&file, mode, 0, 4096), Err(Errno::OPNOTSUPP));
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let unnamed = rustix::fs::open(&pair.dir, flags, Mode::RUSR).map(drop);
        assert_eq!(unnamed, Err(Errno::OPNOTSUPP));
        let other = File::create_new(pair.dir.join("other")).unwrap();
        assert!(rustix::fs::ioctl_ficlone(&other, &file).is_err());
    });
    pair.assert_in_sync();
}

/// Memory that any `O_DIRECT` transfer may use.
#[repr(align(4096))]
struct Aligned([u8; 16 * 1024]);

fn direct(dir: &Path) -> Vec<Result<usize, Errno>> {
    let path = dir.join("direct");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(&path)
        .unwrap();
    let mut memory = Box::new(Aligned([7; 16 * 1024]));
    let mut results = Vec::new();
    // In units that ext4 takes on this disk: whole blocks, and sectors where the disk has such.
    for (offset, length) in [
        (0, 16384),
        (65536, 4096),
        (4096, 8192),
        (1 << 20, 512),
        (512, 1024),
    ] {
        memory.0.fill(length as u8 ^ offset as u8 ^ 0x5a);
        results.push(rustix::io::pwrite(&file, &memory.0[..length], offset));
    }
    for (offset, length) in [(0, 16384), (4096, 4096), (65536, 16384), (2 << 20, 4096)] {
        memory.0.fill(0);
        results.push(rustix::io::pread(&file, &mut memory.0[..length], offset));
        let sum = memory.0.iter().map(|byte| usize::from(*byte)).sum();
        results.push(Ok(sum));
    }
    // Through the page cache it reads the same, and what is written there is what a direct read gives.
    let buffered = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    buffered.write_all_at(b"through the cache", 4096).unwrap();
    results.push(rustix::io::pread(&file, &mut memory.0[..4096], 4096));
    results.push(Ok(usize::from(memory.0.starts_with(b"through the cache"))));
    results
}

#[test]
fn direct_transfers_give_what_they_give_on_a_plain_directory() {
    for pair in [pair(), write_back_pair()] {
        same_in_both(&pair, direct);
        pair.assert_in_sync();
        assert_eq!(pair.differences_to_plain("b"), [] as [&str; 0]);
    }
}

#[test]
fn files_over_four_gibibytes_are_the_same_on_both_hosts() {
    const FAR: u64 = 5 << 30;
    let pair = pair();
    pair.within(|| {
        let path = pair.dir.join("big");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.write_all_at(b"start", 0).unwrap();
        // Across 4 GiB, where 32 bits end.
        file.write_all_at(&[1; 8192], (4 << 30) - 4096).unwrap();
        file.write_all_at(b"end", FAR).unwrap();
        assert_eq!(file.metadata().unwrap().len(), FAR + 3);
        let data = rustix::fs::seek(&file, SeekFrom::Data(1 << 30)).unwrap();
        assert_eq!(data, (4 << 30) - 4096);
        let mut read = [0; 4];
        file.read_exact_at(&mut read, (4 << 30) - 2).unwrap();
        assert_eq!(read, [1; 4]);
        file.set_len(6 << 30).unwrap();
        let target = File::create_new(pair.dir.join("copy")).unwrap();
        let (mut from, mut to) = ((4 << 30) - 4096, 5 << 30);
        let copied = rustix::fs::copy_file_range(&file, Some(&mut from), &target, Some(&mut to), 8192);
        assert_eq!(copied, Ok(8192));
    });
    pair.assert_in_sync();
    let status = fs::metadata(pair.backing("b").join("big")).unwrap();
    assert_eq!(status.len(), 6 << 30);
    assert!(status.blocks() * 512 < 1 << 20, "{} blocks", status.blocks());
}

#[test]
fn an_sqlite_database_in_wal_mode_is_the_same_on_both_hosts() {
    for pair in [pair(), write_back_pair()] {
        let work = "sqlite3 db 'PRAGMA journal_mode=WAL; CREATE TABLE t(writer, n, text);' > /dev/null; \
            writer() { for n in $(seq 40); do echo \"PRAGMA busy_timeout=20000; PRAGMA mmap_size=1048576; \
            INSERT INTO t VALUES($1, $n, hex(randomblob(500))); UPDATE t SET text = text || n WHERE n = $n;\"; \
            done | sqlite3 db > /dev/null; }; \
            writer 1 & one=$!; writer 2 & two=$!; writer 3; wait $one; wait $two; \
            sqlite3 db 'PRAGMA integrity_check; SELECT count(*), count(DISTINCT writer) FROM t'";
        assert_eq!(pair.run(work), "ok\n120|3");
        // The log and its index exist only while a connection is open.
        let mut open = pair.lab.host("a").command("sqlite3").unwrap();
        let mut open = open
            .arg(pair.dir.join("db"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = open.stdin.take().unwrap();
        writeln!(input, "INSERT INTO t VALUES(4, 1, 'in the log'); SELECT 'done';").unwrap();
        let mut done = [0; 5];
        open.stdout.as_mut().unwrap().read_exact(&mut done).unwrap();
        assert_eq!(&done, b"done\n");
        assert_eq!(pair.differences(), [] as [&str; 0]);
        assert!(fs::metadata(pair.backing("b").join("db-wal")).unwrap().len() > 0);
        drop(input);
        assert!(open.wait().unwrap().success());
        pair.assert_in_sync();
        let copy = format!("file:{}/db?immutable=1", pair.backing("b").display());
        let query = "PRAGMA integrity_check; SELECT count(*) FROM t";
        let told = pair.output("b", "sqlite3", &[copy.as_str(), query]);
        assert_eq!(String::from_utf8_lossy(&told.stdout), "ok\n121\n");
    }
}

/// How many names of the big directory are there from the start.
const STEADY: usize = 60_000;
/// How many are made while it is read; every ninth of them is removed at once.
const PASSING: usize = 45_000;
const MAKERS: usize = 4;

#[test]
fn a_directory_of_100_000_entries_is_read_whole_while_it_changes() {
    let pair = pair();
    pair.within(|| {
        let dir = pair.dir.join("big");
        fs::create_dir(&dir).unwrap();
        make_names(&dir, "steady", STEADY, |_| false);
        let finished = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                make_names(&dir, "passing", PASSING, |number| number % 9 == 8);
                finished.store(true, Ordering::Release);
            });
            while !maker.is_finished() && !finished.load(Ordering::Acquire) {
                let names = listed(&dir);
                let steady = names.iter().filter(|name| name.starts_with(b"steady")).count();
                assert_eq!(steady, STEADY);
                let different: HashSet<_> = names.iter().collect();
                assert_eq!(different.len(), names.len(), "a name came twice");
            }
        });
        assert_eq!(listed(&dir).len(), 100_000);
    });
    pair.assert_in_sync();
}

/// Makes names from several threads, and removes those which `passes` says.
fn make_names(dir: &Path, stem: &str, count: usize, passes: impl Fn(usize) -> bool + Sync) {
    let parent = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    std::thread::scope(|scope| {
        for maker in 0..MAKERS {
            let (parent, passes) = (&parent, &passes);
            scope.spawn(move || {
                for number in (maker..count).step_by(MAKERS) {
                    let name = format!("{stem}-{number}");
                    rustix::fs::mknodat(parent, &name, FileType::RegularFile, Mode::RUSR, 0).unwrap();
                    if passes(number) {
                        rustix::fs::unlinkat(parent, &name, AtFlags::empty()).unwrap();
                    }
                }
            });
        }
    });
}

/// All names but that of the directory that is reserved.
fn listed(dir: &Path) -> Vec<Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .filter(|name| name != lab::verify::RESERVED.as_bytes())
        .collect()
}

#[test]
fn an_unlinked_file_goes_on_while_it_is_open_and_leaves_nothing_on_either_host() {
    for pair in [pair(), write_back_pair()] {
        pair.within(|| {
            let path = pair.dir.join("file");
            let open = || {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(&path)
                    .unwrap()
            };
            let mut file = open();
            file.write_all(b"before").unwrap();
            fs::remove_file(&path).unwrap();
            file.write_all(b" and after").unwrap();
            file.sync_all().unwrap();
            file.set_len(10).unwrap();
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            file.rewind().unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "before and");
            // A name of the same kind comes again, another file.
            let mut other = open();
            other.write_all(b"another").unwrap();
            assert_eq!(file.metadata().unwrap().len(), 10);
            fs::write(pair.dir.join("source"), "replaces").unwrap();
            fs::rename(pair.dir.join("source"), &path).unwrap();
            other.write_all(b" one").unwrap();
            assert_eq!(other.metadata().unwrap().len(), 11);
            assert_eq!(fs::read(&path).unwrap(), b"replaces");
            // The same for a directory that somebody works in.
            let sub = pair.dir.join("sub");
            fs::create_dir(&sub).unwrap();
            let inside = File::open(&sub).unwrap();
            fs::remove_dir(&sub).unwrap();
            assert_eq!(make_in(&inside, "late"), Err(Errno::NOENT));
        });
        pair.assert_in_sync();
        assert_eq!(listed(&pair.backing("b")), [b"file"]);
    }
}

fn make_in(directory: impl AsFd, name: &str) -> Result<(), Errno> {
    rustix::fs::mknodat(directory, name, FileType::RegularFile, Mode::RUSR, 0)
}

#[test]
fn nothing_is_renamed_or_linked_from_one_replicated_directory_to_another() {
    let pair = pair();
    let other = pair.outside("other");
    pair.lab.mirror(&other, &MirrorOptions::default()).unwrap();
    pair.within(|| {
        let file = pair.dir.join("file");
        fs::write(&file, "stays").unwrap();
        let errno = |result: io::Result<()>| result.unwrap_err().raw_os_error();
        let crossed = Some(Errno::XDEV.raw_os_error());
        assert_eq!(errno(fs::rename(&file, other.join("file"))), crossed);
        assert_eq!(errno(fs::hard_link(&file, other.join("file"))), crossed);
        // mv(1) copies instead, and that works.
        fs::copy(&file, other.join("file")).unwrap();
    });
    pair.run(&format!("mv file {}/moved", other.display()));
    assert_eq!(listed(&pair.backing("b")), [] as [&[u8]; 0]);
    assert_eq!(
        fs::read(pair.lab.backing("b", &other).unwrap().join("moved")).unwrap(),
        b"stays"
    );
    pair.assert_in_sync();
    let report = pair.lab.verify(&other, lab::verify::Options::default()).unwrap();
    assert_eq!((report.entries, report.differences.len()), (3, 0));
}

#[test]
fn a_file_system_mounted_inside_the_directory_stays_out_of_the_copies() {
    let pair = pair();
    pair.run(
        "mkdir inside; mount -t tmpfs tmpfs inside; echo other > inside/file; \
         rmdir inside 2>/dev/null && exit 1; mv inside away 2>/dev/null && exit 1; \
         ln inside/file . 2>/dev/null && exit 1; cat inside/file",
    );
    assert_eq!(listed(&pair.backing("a").join("inside")), [] as [&[u8]; 0]);
    assert_eq!(listed(&pair.backing("b").join("inside")), [] as [&[u8]; 0]);
    pair.run("umount inside; rmdir inside");
    pair.assert_in_sync();
}

/// A directory that lies so deep that its path, and with it a name of 200 bytes, does not fit `PATH_MAX`.
fn deep(dir: &Path) -> Vec<Result<(), Errno>> {
    let name = [b'd'; 200];
    let mut results = Vec::new();
    let open = |parent: &dyn AsFd, name: &OsStr| -> OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty()).unwrap()
    };
    let mut parent = open(&CWD, dir.as_os_str());
    for _ in 0..30 {
        rustix::fs::mkdirat(&parent, &name[..], Mode::RWXU).unwrap();
        parent = open(&parent, OsStr::from_bytes(&name));
    }
    results.push(make_in(&parent, "at the bottom"));
    results.push(rustix::fs::renameat(&parent, "at the bottom", &parent, "renamed"));
    results.push(rustix::fs::linkat(
        &parent,
        "renamed",
        &parent,
        "linked",
        AtFlags::empty(),
    ));
    // The longest path that the kernel takes, of 4095 bytes, and one byte more.
    let mut path = dir.as_os_str().as_bytes().to_vec();
    while path.len() + 201 < 3900 {
        path.push(b'/');
        path.extend(name);
    }
    for length in [4095, 4096] {
        let mut longest = path.clone();
        longest.push(b'/');
        let rest = length - longest.len();
        longest.extend(vec![b'l'; rest]);
        results.push(make_in(CWD, std::str::from_utf8(&longest).unwrap()));
    }
    // A name is any bytes but / and NUL, at most 255.
    let top = open(&CWD, dir.as_os_str());
    for (byte, length) in [
        (b'x', 255),
        (b'x', 256),
        (0xff, 255),
        (b'\n', 1),
        (b'\\', 3),
        (1, 255),
    ] {
        let name = vec![byte; length];
        let made = rustix::fs::mknodat(&top, &name[..], FileType::RegularFile, Mode::RUSR, 0);
        results.push(made);
        results.push(rustix::fs::unlinkat(&top, &name[..], AtFlags::empty()));
        results.push(rustix::fs::symlinkat(&name[..], &top, &name[..]));
    }
    results.push(rustix::fs::symlinkat(&vec![b't'; 4095][..], &top, "long target"));
    results
}

#[test]
fn long_paths_and_names_of_any_bytes_are_the_same_on_both_hosts() {
    let pair = pair();
    same_in_both(&pair, deep);
    pair.assert_in_sync();
    assert_eq!(pair.differences_to_plain("b"), [] as [&str; 0]);
}
