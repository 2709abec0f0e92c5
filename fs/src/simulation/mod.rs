//! Two nodes, their disks and what is between them, run step by step from a seed: whatever happens in whatever order,
//! a change that was answered is on the node that survives, both copies come to be the same, and no newer copy is
//! overwritten by an older one.
//!
//! The session, the dirty map, the records and what they decide, and the source of a copy are the real ones. The disk
//! ([`disk`], with what a power loss leaves), the target's file operations ([`store`]) and the drivers ([`primary`],
//! [`secondary`], [`wire`]) are the simulation's own: each step of theirs that waits for a disk or the network is one
//! between which anything may happen.

mod application;
mod copying;
mod disk;
mod machine;
mod primary;
mod runs;
mod scenarios;
mod script;
mod secondary;
mod store;
mod truth;
mod wire;
mod world;
