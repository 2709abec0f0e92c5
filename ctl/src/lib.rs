//! Sidekick command-line pieces shared by `skctl` and, later, `skd`.

pub mod pki;
pub mod progress;
pub mod verification;
