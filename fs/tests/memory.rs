//! What a store takes of memory. By itself, as it looks at the whole process.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use rustix::fs::{Mode, OFlags};
use skfs::backing::Store;
use skfs::operation::FileHandle;

#[test]
fn a_million_inodes_take_less_than_120_mib() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    };
    // Not below /tmp, which may be a tmpfs.
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
    let store = Store::new(vec![root]).unwrap();
    let before = resident();
    for n in 0..1_000_000_u64 {
        let bytes = n.to_le_bytes().as_slice().into();
        let inode = store.next_inode();
        store.learn(inode, 0, FileHandle { kind: 1, bytes });
    }
    let taken = resident().saturating_sub(before);
    assert!(taken < 120 << 20, "{taken} bytes");
}
