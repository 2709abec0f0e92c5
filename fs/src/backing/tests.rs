//! Tests of the store on the real file system below the temporary directory. They need root: file handles,
//! owners and devices are root's.

mod blocks;
mod data;
mod displaced;
mod excluded;
mod index;
mod marker;
mod names;
mod nodes;
mod place;
mod random;
pub(crate) mod scratch;
pub(crate) mod tree;
mod trees;
mod whole;
