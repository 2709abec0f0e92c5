//! `skfs`: the replicated file system of one mirror module.
//!
//! In reading order: what it is told ([`config`], [`control`]); what it ships and applies ([`operation`]) and how that looks on the wire ([`wire`]).

pub mod config;
pub mod control;
pub mod operation;
pub mod wire;
