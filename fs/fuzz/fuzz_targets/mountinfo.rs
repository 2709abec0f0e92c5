//! The mount table: lines of any shape, of which those that are none are left out.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::mount::mountinfo::{parse, top_at};

fuzz_target!(|table: &[u8]| {
    let mounts = parse(table);
    assert!(mounts.len() <= table.split(|byte| *byte == b'\n').count());
    for mount in &mounts {
        if let Some(top) = top_at(&mount.point, &mounts) {
            assert_eq!(top.point, mount.point);
        }
    }
});
