//! What happens to an operation between the application and the two disks, as plain state machines: events and
//! `now` (CLOCK_BOOTTIME) in, actions out. No I/O, no threads, no clock.
//!
//! In reading order: [`lanes`] says what may run when, [`names`] what the secondary knows, [`loss`] why a primary
//! loses its secondary, [`secondary`] and [`primary`] are the two ends of a session; `stream`, `liveness`,
//! `pending`, `parked`, `border`, [`claims`], [`coverage`], `verification` and [`repair`] are parts of the primary.

mod border;
pub mod claims;
pub mod coverage;
pub mod lanes;
mod liveness;
pub mod loss;
pub mod names;
mod parked;
mod pending;
pub mod primary;
pub mod repair;
pub mod secondary;
mod stream;
mod verification;

#[cfg(test)]
mod tests;
