//! Whether it pays to ask the target what it has already.
//!
//! What the map names mostly differs, unless a copy of it was interrupted; then to compare costs both nodes more than to
//! send: each reads and sums a block that is read again, sent and written. What is compared as a whole is mostly the same.
//! Which of the two it is shows in what was compared last.

use std::sync::atomic::{AtomicU32, Ordering};

/// Compared batches with fewer equal blocks than one in so many are not worth it.
const WORTH_ONE_IN: usize = 8;
/// So many batches are sent as they are before one is compared again.
const SENT_UNSEEN: u32 = 7;

/// Of one copy; shared by its lanes.
#[derive(Debug, Default)]
pub struct Hunch {
    unseen_left: AtomicU32,
}

impl Hunch {
    /// Whether the next batch is to be compared.
    pub(super) fn compares(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        self.unseen_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_err()
    }

    /// So many of `all` compared blocks were equal.
    pub(super) fn compared(&self, equal: usize, all: usize) {
        if all > 0 {
            let unseen = if equal * WORTH_ONE_IN < all {
                SENT_UNSEEN
            } else {
                0
            };
            self.unseen_left.store(unseen, Ordering::Relaxed);
        }
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
        assert_eq!(compared(&hunch, 80, 1, 16), 10);
        // Within eight batches it is seen that there is something to spare.
        let missed = 8 - compared(&hunch, 8, 16, 16);
        assert!(missed <= 7);
        assert_eq!(compared(&hunch, 80, 2, 16), 80);
        assert_eq!(compared(&hunch, 8, 0, 16), 1);
    }

    #[test]
    fn what_has_nothing_to_compare_says_nothing() {
        let hunch = Hunch::default();
        assert_eq!(compared(&hunch, 8, 0, 0), 8);
    }
}
