//! Jobs of a copy or a verification, and who works on them.

use super::lane::{CopyError, Lane};
use super::pace::{Pace, Turn};
use super::progress::Orders;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Jobs and who works on them.
pub(super) struct Board<J, L> {
    state: Mutex<Jobs<J, L>>,
    pub(super) changed: Condvar,
}

pub(super) struct Jobs<J, L> {
    pub(super) queue: VecDeque<J>,
    working: usize,
    failed: Option<CopyError>,
    /// Found by one step, for the next one.
    pub(super) later: L,
}

impl<J, L: Default> Default for Board<J, L> {
    fn default() -> Self {
        let jobs = Jobs {
            queue: VecDeque::new(),
            working: 0,
            failed: None,
            later: L::default(),
        };
        Board {
            state: Mutex::new(jobs),
            changed: Condvar::new(),
        }
    }
}

impl<J, L> Board<J, L> {
    /// The next job; none when a step is over or has failed.
    fn take(&self) -> Option<(J, Working<'_, J, L>)> {
        let mut jobs = self.lock();
        loop {
            if jobs.failed.is_some() {
                return None;
            }
            if let Some(job) = jobs.queue.pop_front() {
                jobs.working += 1;
                let working = Working {
                    board: self,
                    result: None,
                };
                return Some((job, working));
            }
            if jobs.working == 0 {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs jobs on all lanes until there is none, or one has failed.
    pub(super) fn work_off(
        &self,
        lanes: &mut [Lane],
        work: impl Fn(&mut Lane, J) -> Result<(), CopyError> + Sync,
    ) -> Result<(), CopyError>
    where
        J: Send,
        L: Send,
    {
        std::thread::scope(|scope| {
            for lane in lanes {
                scope.spawn(|| {
                    while let Some((job, working)) = self.take() {
                        working.end(work(lane, job));
                    }
                });
            }
        });
        match self.lock().failed.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Waits until so many bytes more may be under way, or it is over, or somebody has failed. They are until what this
    /// gives is dropped.
    pub(super) fn turn<'a>(
        &self,
        orders: &Orders,
        pace: &'a Pace,
        bytes: u64,
        is_over: impl Fn() -> bool,
    ) -> Turn<'a> {
        let is_over = || is_over() || self.has_failed();
        orders.wait(bytes, is_over);
        pace.take(bytes, is_over)
    }

    /// Somebody has failed: the step is over.
    fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
    }

    pub(super) fn add(&self, job: J) {
        self.lock().queue.push_back(job);
        self.changed.notify_all();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Jobs<J, L>> {
        // A thread that panics fails its job ([`Working`]), and so the copy.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job that somebody works on. Dropped without an end, by a panic, it has failed.
struct Working<'a, J, L> {
    board: &'a Board<J, L>,
    result: Option<Result<(), CopyError>>,
}

impl<J, L> Working<'_, J, L> {
    fn end(mut self, result: Result<(), CopyError>) {
        self.result = Some(result);
    }
}

impl<J, L> Drop for Working<'_, J, L> {
    fn drop(&mut self) {
        let mut jobs = self.board.lock();
        jobs.working -= 1;
        if let Err(error) = self.result.take().unwrap_or(Err(CopyError::Over)) {
            // The first one tells more than those that follow from it.
            jobs.failed.get_or_insert(error);
        }
        drop(jobs);
        self.board.changed.notify_all();
    }
}
