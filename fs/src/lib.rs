//! `skfs`: the replicated file system of one mirror module.
//!
//! In reading order: what it is told ([`config`], [`control`]) and what it leaves out ([`exclude`]); what it ships and
//! applies ([`operation`]), how that looks on the wire ([`wire`]) and how it gets there ([`link`]); what happens to it on
//! its way ([`session`]); the drivers of the two ends ([`replicator`], [`receiver`]); how a copy is brought to the other's
//! state ([`resync`]); what puts it all together ([`module`]).

pub mod admission;
pub mod backing;
pub mod clock;
pub mod config;
pub mod control;
pub mod dirty;
pub mod exclude;
pub mod fuse;
pub mod hash;
pub mod latency;
pub mod link;
pub mod module;
pub mod mount;
pub mod operation;
pub mod process;
pub mod receiver;
pub mod record;
pub mod replicator;
pub mod resync;
pub mod session;
pub mod wire;

#[cfg(test)]
mod random;
#[cfg(test)]
mod simulation;
