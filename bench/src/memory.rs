//! How much memory a system's daemons had at most: the kernel keeps count (`VmHWM`).

use crate::question::Place;
use crate::results::{Metric, Reading};
use anyhow::{Context, Result};

/// The peak of the primary's (0) or the secondary's (1) daemon.
///
/// # Errors
/// When the system has no such daemon, or it has ended.
pub fn peak(place: &Place, which: usize) -> Result<Vec<Reading>> {
    let daemons = place
        .system
        .daemons(place.ground)?
        .context("it has no daemon of ours")?;
    let daemon = daemons.get(which).context("there are two daemons")?;
    let path = format!("/proc/{}/status", daemon.pid);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kibibytes = peak_kibibytes(&text).with_context(|| format!("{path} has no VmHWM"))?;
    Ok(vec![Reading::new(Metric::PeakMib, kibibytes / 1024.0)])
}

fn peak_kibibytes(status: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_the_status_of_a_process() {
        let text = "Name:\tskfs\nVmPeak:\t  999 kB\nVmHWM:\t   20480 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(peak_kibibytes(text), Some(20480.0));
        assert!(peak_kibibytes(&std::fs::read_to_string("/proc/self/status").unwrap()).is_some());
    }
}
