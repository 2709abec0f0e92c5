//! Which lines of writes a copy has been on.

use crate::wire::message::Generation;
use serde::{Deserialize, Serialize};

/// Most generations that are kept. An older copy than that is taken for another module's, and refused.
pub const HISTORY_MAX: usize = 16;

/// The generations that a copy was on before its present one, the latest last; at most [`HISTORY_MAX`].
///
/// A copy that carries one of them is an ancestor of this one: all that it holds was here once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Generation>", into = "Vec<Generation>")]
pub struct History(Vec<Generation>);

/// More generations than a history holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} generations are no history, which has at most {HISTORY_MAX}")]
pub struct TooLong(usize);

impl History {
    /// `generation` is left behind. The oldest one goes when there are too many.
    pub fn push(&mut self, generation: Generation) {
        self.0.retain(|known| *known != generation);
        if self.0.len() >= HISTORY_MAX {
            self.0.remove(0);
        }
        self.0.push(generation);
    }

    /// Whether the copy was on `generation` before.
    pub fn contains(&self, generation: Generation) -> bool {
        self.0.contains(&generation)
    }

    /// The latest first.
    pub fn iter(&self) -> impl Iterator<Item = Generation> {
        self.0.iter().rev().copied()
    }
}

impl TryFrom<Vec<Generation>> for History {
    type Error = TooLong;
    fn try_from(generations: Vec<Generation>) -> Result<Self, TooLong> {
        if generations.len() > HISTORY_MAX {
            return Err(TooLong(generations.len()));
        }
        Ok(History(generations))
    }
}

impl From<History> for Vec<Generation> {
    fn from(history: History) -> Self {
        history.0
    }
}
