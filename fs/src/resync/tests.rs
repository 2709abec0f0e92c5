//! A whole copy between two directories, with a source that does one step after the other.

mod copies;
mod garden;
mod requests;
mod source;
mod verify;
