//! Generations: made of random bytes, shown as hexadecimal digits.

use crate::wire::message::Generation;
use std::fmt;
use std::io;
use std::str::FromStr;

impl Generation {
    /// A new line of writes.
    ///
    /// # Errors
    /// When the kernel gives no random bytes (`getrandom(2)`), which is no state to go on in.
    pub fn random() -> io::Result<Self> {
        random_bytes().map(Generation)
    }
}

/// 16 bytes of `getrandom(2)`.
pub(crate) fn random_bytes() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let length = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if length == bytes.len() {
        return Ok(bytes);
    }
    Err(io::Error::other("getrandom(2) gave fewer bytes than asked"))
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a generation is 32 hexadecimal digits")]
pub struct BadGeneration;

impl FromStr for Generation {
    type Err = BadGeneration;
    fn from_str(text: &str) -> Result<Self, BadGeneration> {
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(BadGeneration);
        }
        let value = u128::from_str_radix(text, 16).map_err(|_| BadGeneration)?;
        Ok(Generation(value.to_be_bytes()))
    }
}
