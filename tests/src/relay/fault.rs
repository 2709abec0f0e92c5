//! What can be wrong with the way from one host to another.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Faults of one direction between two hosts. They add up: a way can be slow and lossy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The host that sends.
    pub from: String,
    /// The host that would receive.
    pub to: String,
    /// Nothing arrives.
    pub cut: bool,
    /// Every frame arrives this much later.
    #[serde(default)]
    pub delay: Duration,
    /// Share of the frames that are lost, 0 to 1.
    #[serde(default)]
    pub loss: f64,
}

impl Fault {
    /// A way without faults.
    pub fn none(from: &str, to: &str) -> Self {
        Fault {
            from: from.to_owned(),
            to: to.to_owned(),
            cut: false,
            delay: Duration::ZERO,
            loss: 0.0,
        }
    }

    /// Whether it makes no difference.
    pub fn is_none(&self) -> bool {
        !self.cut && self.delay.is_zero() && self.loss == 0.0
    }
}

/// A probability written `1%` or `0.01`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_loss(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(percent) => (percent, 100.0),
        None => (text, 1.0),
    };
    let share: f64 = number
        .trim()
        .parse::<f64>()
        .map_err(|_| format!("{text:?} is no share: write it as 1% or 0.01"))?
        / scale;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(format!("{text:?} is not between 0% and 100%"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_a_percentage_or_a_fraction() {
        assert_eq!(parse_loss("1%"), Ok(0.01));
        assert_eq!(parse_loss("0.25"), Ok(0.25));
        assert!(parse_loss("120%").is_err());
        assert!(parse_loss("-1").is_err());
        assert!(parse_loss("NaN").is_err());
        assert!(parse_loss("much").is_err());
    }
}
