//! The mount: kernel requests become reads of the backing directory or operations for the replicator.
//!
//! In reading order: [`mounted`] (what the module holds), `ops` (every FUSE call, in the library's order),
//! `tree` (what the calls share), `names` (changes of names), `data` (changes of content and attributes), `pieces` (a large write
//! as several operations),
//! `listing` (directories), then the tables and rules they use: `inode`, `handle`, `attributes`, `acl`,
//! `credentials`, `errno`, `invalidate`.
//!
//! Session threads run all calls. None of them waits for another node: a change is handed to the replicator
//! together with its reply.

mod acl;
mod attributes;
mod credentials;
mod data;
mod errno;
mod handle;
mod inode;
mod invalidate;
mod listing;
mod mounted;
mod names;
mod ops;
mod pieces;
mod tree;

pub use mounted::{MountOptions, Mounted};
