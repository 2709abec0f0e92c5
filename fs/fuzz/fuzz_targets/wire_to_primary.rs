//! Frames to the primary, as `frames` says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::wire::message::ToPrimary;

mod frames;

fuzz_target!(|data: &[u8]| frames::check_stream::<ToPrimary>(data));
