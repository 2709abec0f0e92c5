//! The replicated directories as they lie on disk: the only folder that touches backing files.
//!
//! [`Store`] is what others use. In reading order: how an inode is found again ([`handle`], [`inodes`]), which
//! descriptors are open ([`open`], [`written`]), what can be asked of one node ([`node`], [`read`]), what can
//! be done to it ([`apply`], [`entries`], [`data`]), and what is said about failures ([`refusal`], [`room`],
//! [`repair`]). A copy uses [`identify`], [`index`], [`place`], [`displaced`], [`excluded`], [`whole`], [`blocks`] and
//! [`marker`]. A verification uses [`survey`].
//! [`volume`] is another view of a directory: the place of the record's second copy.

mod abilities;
mod acl;
mod apply;
mod archive;
mod background;
mod blocks;
mod checkpoint;
mod data;
mod displaced;
mod entering;
mod entries;
mod error;
mod excluded;
mod handle;
mod identify;
mod index;
mod inodes;
mod marker;
mod node;
mod open;
mod place;
mod read;
mod refusal;
mod repair;
mod room;
mod store;
mod survey;
mod volume;
mod walk;
mod whole;
mod written;

#[cfg(test)]
pub(crate) mod tests;

pub use acl::{Inherited, inherit};
pub use archive::{ArchiveError, Archived, Changes, Occasion};
pub use blocks::{Segment, has_zero_page};
pub use error::{BackingError, CopyFailure};
pub use excluded::{Excluding, Leftovers};
pub use open::Access;
pub use place::Above;
pub use read::{Directory, Entry, Sought};
pub use rustix::fs::{Stat, StatVfs};
pub use store::{Found, Store};
pub use volume::Volume;
pub use walk::{RESERVED, is_reserved};
