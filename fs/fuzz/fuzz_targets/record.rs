//! The durable record of a node's copy, in the state directory and on the volume: any bytes are a record or
//! an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::record::Record;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = Record::parse(data) {
        let written = serde_json::to_vec(&record).expect("what was read can be written");
        assert_eq!(Record::parse(&written).as_ref(), Ok(&record));
        if let Ok(bytes) = record.to_volume() {
            Record::from_volume(&bytes).expect("what was written can be read");
        }
    }
    // The sum keeps nearly all bytes from the decoder: it is given them with a right one, too.
    let sealed = Record::sealed(data);
    for record in [data, &sealed].into_iter().flat_map(Record::from_volume) {
        if let Ok(bytes) = record.to_volume() {
            Record::from_volume(&bytes).expect("what was written can be read");
        }
    }
});
