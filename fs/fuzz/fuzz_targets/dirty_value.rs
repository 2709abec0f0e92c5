//! A value of the durable dirty map: any bytes are records within their limits or an error, and any records are
//! folded or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skfs::dirty::store::{Records, Saved, SavedRecord, Units};
use skfs::wire::message::Generation;

const UNITS: Units = Units {
    stored: 64 << 10,
    used: 4 << 10,
};

fuzz_target!(|data: &[u8]| {
    let mut saved = Saved::new(Generation([0; 16]));
    for record in Records::of(data) {
        let Ok(record) = record else { return };
        let mut written = Vec::new();
        record.encode(&mut written).expect("what was read can be written");
        let read = SavedRecord::decode(&written).expect("what was written can be read");
        assert_eq!(read, (record.clone(), &[][..]));
        if saved.fold(record, UNITS).is_err() {
            return;
        }
    }
    let mut again = Saved::new(Generation([0; 16]));
    let units = Units {
        stored: UNITS.used,
        ..UNITS
    };
    saved
        .records(|record| again.fold(record.clone(), units))
        .expect("what was folded can be folded again");
    assert_eq!(again, saved);
});
