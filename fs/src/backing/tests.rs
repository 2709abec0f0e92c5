//! Tests of the store on the real file system below the temporary directory. They need root: file handles,
//! owners and devices are root's.

mod data;
mod names;
mod nodes;
mod random;
mod scratch;
mod trees;
