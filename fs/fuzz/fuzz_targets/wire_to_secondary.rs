//! Frames to the secondary, as `frames` says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::wire::message::ToSecondary;

mod frames;

fuzz_target!(|data: &[u8]| frames::check_stream::<ToSecondary>(data));
