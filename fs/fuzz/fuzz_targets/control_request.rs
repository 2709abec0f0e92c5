//! JSON of the control socket: a `Request` or an error; what was understood survives being written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::control::command::Request;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = serde_json::from_slice::<Request>(data) {
        let written = serde_json::to_vec(&message).expect("what was read can be written");
        let read = serde_json::from_slice::<Request>(&written).expect("what was written can be read");
        assert_eq!(read, message);
    }
});
