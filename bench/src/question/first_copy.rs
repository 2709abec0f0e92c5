//! `first_copy_large`, `first_copy_small`: a secondary that has nothing becomes identical.

use super::Place;
use crate::results::Reading;
use anyhow::{Result, bail};

const NOT_BUILT: &str = "skfs has no first copy yet: connect refuses a secondary that lacks data";

/// A few large files.
///
/// # Errors
/// Always, until there is a first copy.
pub fn large(_place: &Place) -> Result<Vec<Reading>> {
    bail!(NOT_BUILT)
}

/// Many small files.
///
/// # Errors
/// Always, until there is a first copy.
pub fn small(_place: &Place) -> Result<Vec<Reading>> {
    bail!(NOT_BUILT)
}
