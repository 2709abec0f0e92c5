//! The value of `system.posix_acl_default`: what a new node inherits, or none.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::backing::inherit;

fuzz_target!(|input: (&[u8], bool, u16)| {
    let (value, directory, mode) = input;
    let mode = u32::from(mode) & 0o7777;
    if let Some(inherited) = inherit(value, directory, mode) {
        assert_eq!(
            inherited.mode & !mode,
            0,
            "an ACL adds no right to those asked for"
        );
    }
});
