//! `quic_plain`: what the network and QUIC could carry if nothing else cost anything. See [`crate::quic`].

use super::Place;
use crate::ground::PEER;
use crate::results::{Metric, Reading};
use crate::work::Rate;
use anyhow::Result;
use std::time::Duration;

const START_MAX: Duration = Duration::from_secs(20);

/// Sends from memory to memory.
///
/// # Errors
/// When the two programs do not find each other.
pub fn transfer(place: &Place) -> Result<Vec<Reading>> {
    let ground = place.ground;
    let certificate = place.system.directory().join("quic.der");
    let certificate = certificate.to_string_lossy();
    let address = ground.address(PEER)?.to_string();
    let sink = ground.serve(
        PEER,
        "quic-sink",
        &["quic-sink", "--address", &address, &certificate],
    )?;
    let listening = sink.wait_for_line(START_MAX, "listening ")?;
    let limit = place.amount.transfer.as_millis().to_string();
    let sent = ground.work::<Rate>(&["quic-send", &listening, &certificate, "--limit-ms", &limit]);
    sink.process.kill(START_MAX)?;
    Ok(vec![Reading::new(Metric::MbPerS, sent?.per_second() / 1e6)])
}
