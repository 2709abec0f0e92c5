//! Whether it pays to ask the target what it has already.
//!
//! What the map names mostly differs, unless a copy of it was interrupted; then to compare costs both nodes more than to
//! send: each reads and sums a block that is read again, sent and written. What is compared as a whole is mostly the same.
//! Which of the two it is shows in what was compared last.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Compared batches with fewer equal blocks than one in so many are not worth it.
const WORTH_ONE_IN: usize = 8;
/// So many batches in a row that were not worth it make a rule of it: a changed place amid what is equal does not.
const RULE: u32 = 4;
/// So many batches are sent as they are before one is compared again.
const SENT_UNSEEN: u32 = 7;

/// Of one copy; shared by its lanes.
#[derive(Debug, Default)]
pub struct Hunch(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many batches in a row were not worth it, up to [`RULE`].
    poor: u32,
    unseen_left: u32,
}

impl Hunch {
    /// Whether the next batch is to be compared.
    pub(super) fn compares(&self) -> bool {
        let mut state = self.state();
        match state.unseen_left.checked_sub(1) {
            None => true,
            Some(left) => {
                state.unseen_left = left;
                false
            }
        }
    }

    /// So many of `all` compared blocks were equal.
    pub(super) fn compared(&self, equal: usize, all: usize) {
        if all == 0 {
            return;
        }
        let mut state = self.state();
        if equal * WORTH_ONE_IN >= all {
            *state = State::default();
            return;
        }
        state.poor = (state.poor + 1).min(RULE);
        if state.poor == RULE {
            state.unseen_left = SENT_UNSEEN;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(hunch: &Hunch, batches: usize, equal: usize, all: usize) -> usize {
        let compares = |_: &usize| {
            let compares = hunch.compares();
            if compares {
                hunch.compared(equal, all);
            }
            compares
        };
        (0..batches).filter(compares).count()
    }

    #[test]
    fn what_differs_is_looked_at_now_and_then_and_what_is_equal_always() {
        let hunch = Hunch::default();
        assert_eq!(compared(&hunch, 84, 1, 16), 4 + 10);
        // Within eight batches it is seen that there is something to spare.
        let missed = 8 - compared(&hunch, 8, 16, 16);
        assert!(missed <= 7);
        assert_eq!(compared(&hunch, 80, 2, 16), 80);
        assert_eq!(compared(&hunch, 11, 0, 16), 4);
    }

    #[test]
    fn a_changed_place_amid_what_is_equal_makes_no_rule() {
        let hunch = Hunch::default();
        for _ in 0..20 {
            assert_eq!(compared(&hunch, 3, 0, 16), 3);
            assert_eq!(compared(&hunch, 1, 16, 16), 1);
        }
    }

    #[test]
    fn what_has_nothing_to_compare_says_nothing() {
        let hunch = Hunch::default();
        assert_eq!(compared(&hunch, 8, 0, 0), 8);
    }
}
