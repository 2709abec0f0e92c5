//! Frames to the source of a copy, as `frames` says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::wire::bulk::ToSource;

mod frames;

fuzz_target!(|data: &[u8]| frames::check_stream::<ToSource>(data));
