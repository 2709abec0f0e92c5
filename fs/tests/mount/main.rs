//! The mount as applications see it, with a primary that has no peer. Needs root, and fails without it.
//!
//! Each test has a mount namespace of its own, which ends with its thread.

#[path = "../local/mod.rs"]
mod local;

mod files;
mod life;
mod scene;
mod users;
