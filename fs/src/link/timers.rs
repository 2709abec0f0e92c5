//! When which task wants to be woken. No I/O and no thread of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

/// The timers that are set. A few for each connection.
#[derive(Debug, Default)]
pub(super) struct Timers {
    set: Mutex<BTreeMap<(Instant, u64), Waker>>,
    last_id: AtomicU64,
}

impl Timers {
    /// Tells timers of the same instant apart.
    pub(super) fn new_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Sets timer `id`, which is not set for another instant.
    pub(super) fn set(&self, at: Instant, id: u64, waker: &Waker) {
        self.lock()
            .entry((at, id))
            .and_modify(|present| present.clone_from(waker))
            .or_insert_with(|| waker.clone());
    }

    /// Takes back timer `id`, if it has not fired.
    pub(super) fn clear(&self, at: Instant, id: u64) {
        self.lock().remove(&(at, id));
    }

    /// When the first one is due.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.lock().first_key_value().map(|((at, _), _)| *at)
    }

    /// True when one is due before `until`, or at all where that is none.
    pub(super) fn is_due_before(&self, until: Option<Instant>) -> bool {
        self.earliest()
            .is_some_and(|at| until.is_none_or(|until| at < until))
    }

    /// Wakes whose time has come; false when there were none.
    pub(super) fn fire(&self, now: Instant) -> bool {
        let mut fired = false;
        loop {
            let waker = {
                let mut set = self.lock();
                match set.first_entry().filter(|first| first.key().0 <= now) {
                    Some(first) => first.remove(),
                    None => return fired,
                }
            };
            fired = true;
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Instant, u64), Waker>> {
        // Nothing in here panics half-way.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::time::Duration;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_timers_whose_time_has_come_fire_and_each_once() {
        let (timers, count) = (Timers::default(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for millis in [10, 20, 20] {
            timers.set(at(millis), timers.new_id(), &waker);
        }
        let cleared = timers.new_id();
        timers.set(at(5), cleared, &waker);
        timers.clear(at(5), cleared);

        assert_eq!(timers.earliest(), Some(at(10)));
        assert!(timers.is_due_before(None) && !timers.is_due_before(Some(at(10))));
        assert!(!timers.fire(at(9)));
        assert!(timers.fire(at(10)));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(timers.fire(at(30)));
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
        assert_eq!(timers.earliest(), None);
    }
}
