//! The lab.

pub mod differential;
