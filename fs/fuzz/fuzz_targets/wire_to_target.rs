//! Frames to the target of a copy, as `frames` says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::wire::bulk::ToTarget;

mod frames;

fuzz_target!(|data: &[u8]| frames::check_stream::<ToTarget>(data));
