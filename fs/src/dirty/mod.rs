//! What the other copy may lack: the dirty map, and how it is kept on disk while this node is alone.
//!
//! [`extents`] is a set of ranges of one file, [`marks`] a set of such sets without order or time, [`map`] enters
//! operations and drops what checkpoints cover; none of them does I/O. [`store`] keeps a map on disk, and
//! [`maps`] is the store that a module uses.

pub mod extents;
pub mod map;
pub mod maps;
pub mod marks;
pub mod store;

pub use extents::Extents;
pub use map::{DirtyMap, EpochId, MarkSeq, Plan, Record, Tracked};
pub use marks::{Content, Marks, NodeMarks, Place, changed_extents};
