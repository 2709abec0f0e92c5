//! Applying the operations that a session lets run.

use super::*;

/// How long the answers of short operations wait for those of the next ones: about as long as it takes to send
/// some.
const ANSWERS_EVERY: Duration = Duration::from_micros(50);

/// An operation that may run now.
pub(super) struct Work {
    pub(super) number: Number,
    pub(super) operation: Operation,
}

impl Shared {
    /// Runs operations and what becomes ready by them: short ones here, one after the other, others on workers.
    /// Answers go out as they come, several at a time.
    pub(super) fn carry_out(self: &Arc<Self>, mut work: VecDeque<Work>) {
        let mut done = Vec::new();
        let mut since = Instant::now();
        while let Some(Work { number, operation }) = work.pop_front() {
            if operation.is_short() {
                let outcome = self.timed_apply(&operation);
                done.push((number, outcome));
            } else {
                self.on_worker(number, operation);
            }
            let last = work.is_empty();
            if !done.is_empty() && (last || since.elapsed() >= ANSWERS_EVERY) {
                self.done(&mut done, &mut work);
                if !work.is_empty() {
                    self.executor.let_go();
                }
                since = Instant::now();
            }
        }
    }

    fn on_worker(self: &Arc<Self>, number: Number, operation: Operation) {
        let shared = self.clone();
        self.runtime.spawn_blocking(move || {
            let outcome = shared.timed_apply(&operation);
            let mut work = VecDeque::new();
            let executor = &shared.executor;
            executor.drive(|| shared.done(&mut vec![(number, outcome)], &mut work));
            executor.drive(|| shared.carry_out(work));
        });
    }

    fn timed_apply(&self, operation: &Operation) -> Outcome {
        let began = Instant::now();
        let outcome = self.apply(operation);
        self.local.record(began.elapsed());
        outcome
    }

    #[cfg(not(feature = "control-test"))]
    fn apply(&self, operation: &Operation) -> Outcome {
        self.counted(operation, self.store.apply(operation))
    }

    /// A checkpoint is counted in the record before it is answered: a copy that has counted fewer than the other node
    /// knows of was brought back from an older state.
    fn counted(&self, operation: &Operation, outcome: Outcome) -> Outcome {
        if !matches!(
            (operation, &outcome),
            (Operation::Checkpoint, Outcome::Applied(_))
        ) {
            return outcome;
        }
        if let Err(error) = self.keeper.update(|record| record.checkpoint += 1) {
            // The next copy to this node is a whole one then.
            warn!(%error, "a checkpoint cannot be counted");
        }
        outcome
    }

    /// As long as `lose` lies in the state directory, answers without applying.
    #[cfg(feature = "control-test")]
    fn apply(&self, operation: &Operation) -> Outcome {
        if self.keeper.state().join("lose").exists() {
            let length = operation.length();
            return Outcome::Applied(crate::operation::Applied { length, handle: None });
        }
        self.counted(operation, self.store.apply(operation))
    }

    /// Operations have ended; adds what may run now.
    pub(super) fn done(self: &Arc<Self>, done: &mut Vec<(Number, Outcome)>, work: &mut VecDeque<Work>) {
        self.finishing.fetch_add(1, Ordering::AcqRel);
        let mut inner = self.lock();
        let others = self.finishing.fetch_sub(1, Ordering::AcqRel) > 1;
        for (number, outcome) in done.drain(..) {
            self.step(&mut inner, Event::Done { number, outcome }, work);
        }
        // Answers batch by themselves under load: whoever is behind this one flushes for both.
        if !others {
            self.step(&mut inner, Event::Flush, work);
        }
    }
}
