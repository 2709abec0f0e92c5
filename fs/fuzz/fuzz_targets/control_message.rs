//! JSON of the control socket: a `Message` or an error; what was understood survives being written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::control::command::Message;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = serde_json::from_slice::<Message>(data) {
        let written = serde_json::to_vec(&message).expect("what was read can be written");
        let read = serde_json::from_slice::<Message>(&written).expect("what was written can be read");
        assert_eq!(read, message);
    }
});
