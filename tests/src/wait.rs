//! Waiting for a condition with a deadline: the only place of the lab that lets time pass.

use crate::error::{Error, Result};
use std::time::{Duration, Instant};

/// How long a condition rests after the first look. Short: most of what is waited for takes milliseconds.
const REST_FIRST: Duration = Duration::from_millis(2);
/// How long it rests at most. Looks cost time that what is waited for may need.
const REST_MAX: Duration = Duration::from_millis(50);

/// What one look at a condition gives.
#[derive(Debug)]
pub enum Look<T> {
    /// It holds.
    Holds(T),
    /// It does not hold; a person would see this.
    NotYet(String),
}

/// Looks again and again until the condition holds.
///
/// # Errors
/// [`Error::Deadline`] with the last state seen, or whatever error a look returns.
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<Look<T>>) -> Result<T> {
    let start = Instant::now();
    let mut rest = REST_FIRST;
    loop {
        match look()? {
            Look::Holds(value) => return Ok(value),
            Look::NotYet(last) if start.elapsed() >= limit => {
                return Err(Error::Deadline {
                    what: what.to_owned(),
                    waited: limit,
                    last,
                });
            }
            Look::NotYet(_) => {
                std::thread::sleep(rest);
                rest = (rest * 2).min(REST_MAX);
            }
        }
    }
}

/// As [`until`], for a condition that is yes or no.
pub fn until_true(limit: Duration, what: &str, mut look: impl FnMut() -> bool) -> Result<()> {
    until(limit, what, || {
        Ok(if look() {
            Look::Holds(())
        } else {
            Look::NotYet("it does not hold".into())
        })
    })
}
