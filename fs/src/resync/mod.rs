//! Bringing the secondary's copy to the primary's state while the application runs.
//!
//! [`source`] runs on the primary and decides, [`target`] on the secondary and executes, [`lane`] is one connection
//! between them, [`progress`] what is shown and ordered, [`pace`] keeps out of
//! the application's way. [`verify`] compares both copies, and uses the same. What may be shipped meanwhile is the session's matter
//! (`session/coverage.rs`).

mod board;
pub mod lane;
pub mod pace;
pub mod progress;
pub mod source;
pub mod target;
pub mod verify;

#[cfg(test)]
mod tests;
