//! A primary and a secondary with model file systems, a fake link and a fake clock; then tables of single rules.

mod model;
mod pair;
mod random;
mod schedules;
mod tables;
