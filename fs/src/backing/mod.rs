//! The replicated directories as they lie on disk: the only folder that touches backing files.
//!
//! [`Store`] is what others use. In reading order: how an inode is found again ([`handle`], [`inodes`]), which
//! descriptors are open ([`open`], [`written`]), what can be asked of one node ([`node`], [`read`]), what can
//! be done to it ([`apply`], [`entries`], [`data`]), and what is said about failures ([`refusal`], [`room`],
//! [`repair`]).

mod abilities;
mod acl;
mod apply;
mod background;
mod checkpoint;
mod data;
mod entries;
mod error;
mod handle;
mod inodes;
mod node;
mod open;
mod read;
mod refusal;
mod repair;
mod room;
mod store;
mod walk;
mod written;

#[cfg(test)]
mod tests;

pub use acl::{Inherited, inherit};
pub use error::BackingError;
pub use open::Access;
pub use read::{Directory, Entry, Sought};
pub use rustix::fs::{Stat, StatVfs};
pub use store::{Found, Store};
pub use walk::{RESERVED, is_reserved};
