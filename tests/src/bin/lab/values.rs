//! Values on the command line.

use skfs::config::{Durability, OnPeerLoss, SyncMode};
use skfs::record::split_brain::Policy;
use std::time::Duration;

/// A number with a unit: `500us`, `5ms`, `1.5s`, `2m`; without one it is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("{text:?} is no duration: write it as 5ms, 2s or 1m");
    let split = text
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| problem())?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" | "" => number,
        "m" => number * 60.0,
        _ => return Err(problem()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| problem())
}

/// A number of bytes with K, M or G.
pub fn size(text: &str) -> Result<u64, String> {
    let problem = || format!("{text:?} is no size: write it as 64M or 1G");
    let (number, scale) = match text.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G']) {
        Some(number) => {
            let exponent = match text.as_bytes().last() {
                Some(b'k' | b'K') => 10,
                Some(b'm' | b'M') => 20,
                _ => 30,
            };
            (number, 1u64 << exponent)
        }
        None => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| problem())?;
    number.checked_mul(scale).ok_or_else(problem)
}

/// When an operation is shipped.
pub fn sync(text: &str) -> Result<SyncMode, String> {
    match text {
        "write" => Ok(SyncMode::Write),
        "flush" => Ok(SyncMode::Flush),
        _ => Err(format!("{text:?} is neither write nor flush")),
    }
}

/// What `fsync` waits for.
pub fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "disk" => Ok(Durability::Disk),
        "memory" => Ok(Durability::Memory),
        _ => Err(format!("{text:?} is neither disk nor memory")),
    }
}

/// What a primary does that loses its secondary.
pub fn on_peer_loss(text: &str) -> Result<OnPeerLoss, String> {
    match text {
        "alone" => Ok(OnPeerLoss::Alone),
        "ask" => Ok(OnPeerLoss::Ask),
        _ => Err(format!("{text:?} is neither alone nor ask")),
    }
}

/// Whose changes stay after a split brain.
pub fn split_brain(text: &str) -> Result<Policy, String> {
    match text {
        "discard-zero-changes" => Ok(Policy::DiscardZeroChanges),
        "discard-least-changes" => Ok(Policy::DiscardLeastChanges),
        "keep-primary" => Ok(Policy::KeepPrimary),
        "manual" => Ok(Policy::Manual),
        _ => Err(format!(
            "{text:?} is none of discard-zero-changes, discard-least-changes, keep-primary, manual"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        for wrong in ["", "ms", "5 parsecs", "-1s", "1e300m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units_and_do_not_overflow() {
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("512"), Ok(512));
        for wrong in ["", "M", "1.5G", "18446744073709551615G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
