//! The lab: hosts made of namespaces on one machine, joined by a network that can be broken, running the real
//! programs. A library for tests, and the binary `lab` for people and scripts.

pub mod directory;
pub mod disk;
pub mod error;
pub mod exec;
pub mod failback;
mod host;
pub mod keeper;
mod lab;
pub mod mirror;
pub mod mirrors;
pub mod mount_points;
pub mod namespace;
pub mod pair;
pub mod process;
pub mod programs;
pub mod random;
pub mod relay;
pub mod removal;
pub mod status;
pub mod verify;
pub mod wait;

pub mod demo;
pub mod differential;
pub mod postgres;
pub mod recorded;

pub use error::{Error, Result};
pub use host::HostHandle;
pub use lab::{DEFAULT_SEED, LIMIT, Lab, LabOptions, MTU};
