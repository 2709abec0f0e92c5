//! The durable record of a node's copy: any bytes are a record or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::record::Record;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = serde_json::from_slice::<Record>(data) {
        let written = serde_json::to_vec(&record).expect("what was read can be written");
        let read = serde_json::from_slice::<Record>(&written).expect("what was written can be read");
        assert_eq!(read, record);
    }
});
