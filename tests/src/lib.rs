//! The lab.

pub mod differential;
pub mod postgres;
