//! A primary and a secondary with model file systems, a fake link and a fake clock; then tables of single rules.

mod exclusions;
mod model;
mod pair;
mod primary_rules;
mod schedules;
mod secondary_rules;
mod verifying;
