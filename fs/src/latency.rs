//! Latencies of the most recent operations, for `status`.

use crate::control::status::Latency;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Samples kept; the oldest is overwritten.
const SAMPLES: usize = 4096;

/// A ring of the last [`SAMPLES`] latencies. Recording takes one short uncontended lock.
#[derive(Debug, Default)]
pub struct Ring {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Microseconds; capped at `u32::MAX` (over an hour).
    samples: Vec<u32>,
    next: usize,
    count: u64,
}

impl Ring {
    /// Adds one.
    pub fn record(&self, latency: Duration) {
        let sample = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.samples.len() < SAMPLES {
            inner.samples.push(sample);
        } else {
            let next = inner.next;
            inner.samples[next] = sample;
        }
        inner.next = (inner.next + 1) % SAMPLES;
        inner.count += 1;
    }

    /// The summary; all zero when nothing was recorded.
    pub fn summary(&self) -> Latency {
        let (mut samples, count) = {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            (inner.samples.clone(), inner.count)
        };
        samples.sort_unstable();
        let at = |fraction: f64| -> f64 {
            let last = samples.len().saturating_sub(1);
            samples
                .get((last as f64 * fraction).round() as usize)
                .copied()
                .map_or(0.0, f64::from)
        };
        Latency {
            count,
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: at(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_speaks_of_the_most_recent_samples_only() {
        let ring = Ring::default();
        assert_eq!(ring.summary().count, 0);
        for _ in 0..SAMPLES {
            ring.record(Duration::from_secs(1));
        }
        for micros in 1..=SAMPLES as u64 {
            ring.record(Duration::from_micros(micros));
        }
        let summary = ring.summary();
        assert_eq!(summary.count, 2 * SAMPLES as u64);
        assert_eq!(summary.max_us, SAMPLES as f64);
        assert!(
            (summary.p50_us - SAMPLES as f64 / 2.0).abs() <= 1.0,
            "{summary:?}"
        );
    }
}
