//! Any stream of frames is messages within their limits, "incomplete", or an error, however it is cut; and what was
//! understood can be sent on and is understood the same.

use bytes::Bytes;
use skfs::wire::frame::{Decoder, Message, check_preamble};
use std::fmt::Debug;

/// The first byte says into how long pieces the rest is cut.
pub fn check_stream<M: Message + PartialEq + Debug>(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else {
        return;
    };
    if let Some((preamble, _)) = stream.split_first_chunk() {
        // Its outcome is not used: it must only not panic.
        check_preamble(*preamble).ok();
    }
    // The body alone, so that the fuzzer need not find out lengths.
    if let Ok(message) = M::decode(Bytes::copy_from_slice(stream)) {
        check(&message);
    }
    let mut decoder = Decoder::<M>::default();
    for chunk in stream.chunks(usize::from(*piece).max(1)) {
        decoder.push(Bytes::copy_from_slice(chunk));
        loop {
            match decoder.next() {
                Ok(Some(message)) => check(&message),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    // As above.
    decoder.finish().ok();
}

fn check<M: Message + PartialEq + Debug>(message: &M) {
    message.check().expect("what is decoded is within its limits");
    let encoded = message.encode().expect("what is decoded can be sent");
    let mut decoder = Decoder::<M>::default();
    encoded.into_chunks().for_each(|chunk| decoder.push(chunk));
    assert_eq!(
        decoder.next().expect("what is sent is understood").as_ref(),
        Some(message)
    );
}
