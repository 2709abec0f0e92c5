//! Which run of the machine it is: a restart of the machine loses what the page cache held, a restart of
//! `skfs` does not.

use serde::{Deserialize, Serialize};
use std::fmt;

const PATH: &str = "/proc/sys/kernel/random/boot_id";

/// The kernel's random name for one run of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// That of the present run. None when the kernel does not tell it: then it counts as another one than any
    /// that was noted, as after a restart.
    pub fn current() -> Option<Self> {
        let text = std::fs::read_to_string(PATH).ok()?;
        BootId::parse(text.trim_end())
    }

    /// 32 hexadecimal digits, with dashes as the kernel sets them.
    fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|character| *character != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let value = u128::from_str_radix(&digits, 16).ok()?;
        Some(BootId(value.to_be_bytes()))
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({:032x})", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_one_name_for_this_run() {
        let now = BootId::current();
        assert!(now.is_some());
        assert_eq!(now, BootId::current());
    }

    #[test]
    fn what_is_no_boot_id_is_none() {
        let text = "7d4c1c5e-0bb7-4b0c-9d53-5f0a3c1e8d77";
        assert!(BootId::parse(text).is_some());
        for bad in ["", "7d4c1c5e", "7d4c1c5e-0bb7-4b0c-9d53-5f0a3c1e8dzz"] {
            assert_eq!(BootId::parse(bad), None, "{bad}");
        }
    }
}
