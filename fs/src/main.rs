//! `skfs`.
fn main() {}
