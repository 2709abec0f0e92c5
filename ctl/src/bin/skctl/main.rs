//! `skctl`.
fn main() {}
