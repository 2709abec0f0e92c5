//! How far a copy is, and what it was told: shared by the threads that copy and whoever looks or commands.

use crate::control::status::Copy;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The rate shown is that of so long.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Shortest time between two samples of the rate.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);
/// What may be taken at once after a pause of any length, as time at the limit.
const BURST: Duration = Duration::from_millis(100);
/// How long who waits for `resume` or for its turn sleeps before it looks whether the copy is over.
const NAP_MAX: Duration = Duration::from_millis(200);

/// What a copy is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Step {
    /// Directories are compared and names brought over.
    #[default]
    Names,
    /// Data of files.
    Files,
    /// Attributes of directories, last because names change them.
    Attributes,
    /// Both nodes write down that it is complete.
    End,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Step::Names => "names",
            Step::Files => "files",
            Step::Attributes => "attributes",
            Step::End => "end",
        }
    }
}

/// Orders about copies of a primary; they outlive each copy.
#[derive(Debug, Default)]
pub struct Orders {
    state: Mutex<Told>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Told {
    paused: bool,
    limit: Option<u64>,
    /// Until when the bytes taken so far would last at the limit.
    paid_until: Option<Instant>,
}

impl Orders {
    /// Brings nothing more over until it is told otherwise.
    pub fn pause(&self, paused: bool) {
        self.lock().paused = paused;
        self.changed.notify_all();
    }

    /// Most bytes per second.
    pub fn limit(&self, bytes_per_second: Option<u64>) {
        let mut told = self.lock();
        told.limit = bytes_per_second.filter(|limit| *limit > 0);
        told.paid_until = None;
        self.changed.notify_all();
    }

    /// Waits until `bytes` more may be brought over, or until `is_over`.
    pub fn wait(&self, bytes: u64, is_over: impl Fn() -> bool) {
        let mut told = self.lock();
        while !is_over() {
            let nap = match told.due(Instant::now()) {
                None => {
                    told.pay(bytes, Instant::now());
                    return;
                }
                Some(wait) => wait.min(NAP_MAX),
            };
            let waited = self.changed.wait_timeout(told, nap);
            told = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        // Plain values, changed one at a time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// How long to wait at least; none when it may go on.
    fn due(&self, now: Instant) -> Option<Duration> {
        if self.paused {
            return Some(NAP_MAX);
        }
        self.limit?;
        let ahead = self.paid_until?.saturating_duration_since(now);
        ahead.checked_sub(BURST).filter(|wait| !wait.is_zero())
    }

    fn pay(&mut self, bytes: u64, now: Instant) {
        if let Some(limit) = self.limit {
            let from = self.paid_until.map_or(now, |until| until.max(now));
            self.paid_until = Some(from + Duration::from_secs_f64(bytes as f64 / limit as f64));
        }
    }
}

/// Progress of one copy.
#[derive(Debug, Default)]
pub struct Progress {
    files_total: AtomicU64,
    files_done: AtomicU64,
    bytes_total: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_skipped: AtomicU64,
    tracked: AtomicBool,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    step: Step,
    current: Option<PathBuf>,
    /// Bytes done by then, oldest first.
    samples: VecDeque<(Instant, u64)>,
}

impl Progress {
    /// One more node, with so many bytes.
    pub fn found(&self, bytes: u64) {
        self.files_total.fetch_add(1, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many nodes are finished.
    pub fn finished(&self, files: u64) {
        self.files_done.fetch_add(files, Ordering::Relaxed);
    }

    /// Bytes went over the network.
    pub fn sent(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
        self.sample(Instant::now());
    }

    /// Bytes that the target has already, or that are a hole.
    pub fn skipped(&self, bytes: u64) {
        self.bytes_skipped.fetch_add(bytes, Ordering::Relaxed);
        self.sample(Instant::now());
    }

    /// Only what the dirty map names is brought over.
    pub fn set_tracked(&self) {
        self.tracked.store(true, Ordering::Relaxed);
    }

    /// What is being done now.
    pub fn step(&self, step: Step) {
        let mut shown = self.lock();
        shown.step = step;
        shown.current = None;
    }

    /// What is being copied now.
    pub fn current(&self, path: Option<PathBuf>) {
        self.lock().current = path;
    }

    /// For the status.
    pub fn show(&self, orders: &Orders) -> Copy {
        let told = orders.lock();
        let (paused, limit) = (told.paused, told.limit);
        drop(told);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (total, done) = (load(&self.bytes_total), self.done());
        let now = Instant::now();
        self.sample(now);
        let shown = self.lock();
        let rate = shown.rate(now);
        let left = total.saturating_sub(done) as f64;
        Copy {
            files_total: Some(load(&self.files_total)),
            files_done: Some(load(&self.files_done)),
            bytes_total: Some(total),
            bytes_sent: Some(load(&self.bytes_sent)),
            bytes_skipped: Some(load(&self.bytes_skipped)),
            rate_bytes_per_second: rate,
            eta_seconds: rate
                .filter(|rate| *rate > 0.0 && shown.step != Step::Names && !paused)
                .map(|rate| left / rate),
            current: shown.current.clone(),
            step: Some(shown.step.as_str().to_owned()),
            paused,
            limit_bytes_per_second: limit,
            interrupted: None,
            hurries: false,
            held_back: false,
            tracked: Some(self.tracked.load(Ordering::Relaxed)),
        }
    }

    fn done(&self) -> u64 {
        self.bytes_sent.load(Ordering::Relaxed) + self.bytes_skipped.load(Ordering::Relaxed)
    }

    fn sample(&self, now: Instant) {
        let mut shown = self.lock();
        let due = |(last, _): &(Instant, u64)| now.saturating_duration_since(*last) >= SAMPLE_INTERVAL;
        if shown.samples.back().is_none_or(due) {
            let done = self.done();
            shown.samples.push_back((now, done));
            let old = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) > RATE_WINDOW;
            while shown.samples.len() > 2 && shown.samples.front().is_some_and(old) {
                shown.samples.pop_front();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        // Entries are replaced whole.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    fn rate(&self, now: Instant) -> Option<f64> {
        let (since, before) = self.samples.front()?;
        let (_, last) = self.samples.back()?;
        let seconds = now.saturating_duration_since(*since).as_secs_f64();
        (seconds > 0.0).then(|| last.saturating_sub(*before) as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_lets_a_burst_through_and_then_its_rate() {
        let now = Instant::now();
        let mut told = Told {
            limit: Some(1_000_000),
            ..Told::default()
        };
        assert_eq!(told.due(now), None);
        told.pay(100_000, now);
        assert_eq!(told.due(now), None, "a burst of a tenth of a second");
        told.pay(400_000, now);
        assert_eq!(told.due(now), Some(Duration::from_millis(400)));
        assert_eq!(told.due(now + Duration::from_millis(400)), None);
    }

    #[test]
    fn a_pause_ends_with_the_copy() {
        let orders = Orders::default();
        orders.pause(true);
        let looks = AtomicU64::new(0);
        orders.wait(1, || looks.fetch_add(1, Ordering::Relaxed) >= 2);
        assert_eq!(looks.into_inner(), 3);
    }

    #[test]
    fn what_is_left_is_told_once_the_names_are_known() {
        let (progress, orders) = (Progress::default(), Orders::default());
        progress.found(1000);
        progress.found(3000);
        progress.sent(500);
        progress.skipped(500);
        progress.finished(1);
        let shown = progress.show(&orders);
        assert_eq!((shown.files_total, shown.files_done), (Some(2), Some(1)));
        assert_eq!((shown.bytes_total, shown.bytes_sent), (Some(4000), Some(500)));
        assert_eq!(shown.eta_seconds, None, "names are still being found");
        assert_eq!(shown.step.as_deref(), Some("names"));
    }
}
