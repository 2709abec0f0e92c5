//! Bringing a whole copy over: the first one, and every later resync.

pub mod target;

#[cfg(test)]
mod tests;
