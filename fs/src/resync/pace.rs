//! How much of a copy may be under way at a time, so that the application hardly notices it.
//!
//! Whatever the copy has under way, an operation of the application may have to wait for: in the sockets, in the
//! secondary's queue, for the processor. So the bytes under way are bounded by a window, which shrinks when operations
//! take much longer than they do while the copy holds still, and grows again when they do not. What is still too much
//! with the smallest window is spread out by pauses. With nobody there to notice, the window is wide open.
//!
//! How long operations take without the copy is not known beforehand: before it, this node was alone, and nothing
//! went over the network. So the copy holds still for a moment at first, and again from time to time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Smallest and largest window, in bytes. The largest holds what all connections of a copy may have under way.
const WINDOW_MIN: u64 = 64 << 10;
const WINDOW_MAX: u64 = 4 << 20;
/// The window while the application works, before anything is known.
const WINDOW_FIRST: u64 = 512 << 10;
/// Longest and shortest pause after each piece with the smallest window: so the copy always goes on, by some 8 MB/s.
const PAUSE_MAX: Duration = Duration::from_millis(8);
const PAUSE_MIN: Duration = Duration::from_micros(500);
/// Operations may take so many times as long as they do while the copy holds still, and [`SLACK`] more.
const FACTOR: u32 = 2;
const SLACK: Duration = Duration::from_micros(50);
/// The share of operations that must not take longer, in percent.
const PERCENTILE: usize = 98;
/// A judgement takes so many operations, and so long.
const SAMPLES_MIN: usize = 32;
const JUDGE_INTERVAL: Duration = Duration::from_millis(50);
/// An application that does little is judged by fewer operations, after so long.
const FEW_SAMPLES: usize = 8;
const JUDGE_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Operations without the copy that are remembered, and that are needed for a judgement.
const QUIET_MAX: usize = 512;
const QUIET_MIN: usize = 16;
/// The copy holds still for so long, when what it knows of operations without it is older than [`QUIET_AGE`].
/// Longer where operations take longer: some have to begin and end in it.
const HOLD: Duration = Duration::from_millis(30);
const HOLD_MAX: Duration = Duration::from_millis(500);
const QUIET_AGE: Duration = Duration::from_secs(3);
/// An application that has done nothing for so long does not notice.
const UNNOTICED_AFTER: Duration = Duration::from_millis(300);
/// How long who waits for its turn sleeps at most before it looks whether the copy is over.
const NAP_MAX: Duration = Duration::from_millis(200);

/// The window of one primary's copies, shared by the threads that copy and those that answer the application.
#[derive(Debug, Default)]
pub struct Pace {
    /// A copy goes on.
    copying: AtomicBool,
    /// Copies are to be done as soon as can be, whatever it costs the application.
    hurries: AtomicBool,
    control: Mutex<Control>,
    changed: Condvar,
}

/// Bytes under way, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Turn<'a> {
    pace: &'a Pace,
    bytes: u64,
}

impl Pace {
    /// A copy begins.
    pub fn begin(&self) {
        *self.lock() = Control::default();
        self.copying.store(true, Ordering::Release);
    }

    /// No copy goes on.
    pub fn end(&self) {
        self.copying.store(false, Ordering::Release);
        self.changed.notify_all();
    }

    /// From now on, for this copy and later ones: whether they yield to the application.
    pub fn hurry(&self, hurries: bool) {
        self.hurries.store(hurries, Ordering::Release);
        self.changed.notify_all();
    }

    /// Copies do not yield.
    pub fn hurries(&self) -> bool {
        self.hurries.load(Ordering::Acquire)
    }

    /// Whether operations are to be reported.
    pub fn is_wanted(&self) -> bool {
        self.copying.load(Ordering::Acquire) && !self.hurries()
    }

    /// An operation of the application, other than a sync, took so long.
    pub fn operation(&self, began: Instant, ended: Instant) {
        self.lock().operation(began, ended);
    }

    /// How many bytes to bring over with the next [`Turn`], at most `most`: a multiple of 64 KiB, or `most`.
    pub fn piece(&self, most: u64) -> u64 {
        if self.is_wanted() {
            most.min(self.lock().piece())
        } else {
            most
        }
    }

    /// The window is smaller than it could be, on account of the application.
    pub fn is_held_back(&self) -> bool {
        self.is_wanted() && self.lock().window < WINDOW_MAX
    }

    /// Waits until `bytes` more may be under way, or until `is_over`.
    pub fn take(&self, bytes: u64, is_over: impl Fn() -> bool) -> Turn<'_> {
        let mut control = self.lock();
        while self.is_wanted() && !is_over() {
            let Some(wait) = control.due(bytes, Instant::now()) else {
                break;
            };
            let waited = self.changed.wait_timeout(control, wait.min(NAP_MAX));
            control = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        control.under_way += bytes;
        control.turns += 1;
        Turn { pace: self, bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        // Plain values; what a panic left half done only changes the pace.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pace.lock().ended(self.bytes, Instant::now());
        self.pace.changed.notify_all();
    }
}

/// The decisions.
#[derive(Debug)]
struct Control {
    window: u64,
    pause: Duration,
    under_way: u64,
    turns: u64,
    /// The end of the last piece, if none is under way.
    idle_since: Option<Instant>,
    /// Nothing begins before.
    not_before: Option<Instant>,
    /// Latencies since the last judgement.
    recent: Vec<Duration>,
    /// Latencies while nothing was under way, oldest first.
    quiet: VecDeque<Duration>,
    last_quiet: Option<Instant>,
    last_operation: Option<Instant>,
    judged: Option<Instant>,
}

impl Default for Control {
    fn default() -> Self {
        Control {
            window: WINDOW_FIRST,
            pause: Duration::ZERO,
            under_way: 0,
            turns: 0,
            idle_since: None,
            not_before: None,
            recent: Vec::new(),
            quiet: VecDeque::new(),
            last_quiet: None,
            last_operation: None,
            judged: None,
        }
    }
}

impl Control {
    fn operation(&mut self, began: Instant, ended: Instant) {
        let latency = ended.saturating_duration_since(began);
        self.last_operation = self.last_operation.max(Some(ended));
        self.recent.push(latency);
        if self.turns == 0 && self.idle_since.is_none_or(|since| began >= since) {
            if self.quiet.len() == QUIET_MAX {
                self.quiet.pop_front();
            }
            self.quiet.push_back(latency);
            self.last_quiet = Some(ended);
        }
        let since = ended.saturating_duration_since(*self.judged.get_or_insert(ended));
        let enough = self.recent.len() >= SAMPLES_MIN && since >= JUDGE_INTERVAL
            || self.recent.len() >= FEW_SAMPLES && since >= JUDGE_INTERVAL_MAX;
        if enough {
            self.judge(ended);
        }
    }

    fn judge(&mut self, now: Instant) {
        let mut recent = std::mem::take(&mut self.recent);
        self.judged = Some(now);
        let is_old = |at: Instant| now.saturating_duration_since(at) > QUIET_AGE;
        if self.quiet.len() < QUIET_MIN || self.last_quiet.is_none_or(is_old) {
            let hold = (median(&mut recent) * 4).clamp(HOLD, HOLD_MAX);
            self.not_before = self.not_before.max(Some(now + hold));
            if self.quiet.len() < QUIET_MIN {
                return;
            }
        }
        let mut quiet: Vec<Duration> = self.quiet.iter().copied().collect();
        if upper(&mut recent) > upper(&mut quiet) * FACTOR + SLACK {
            if self.window > WINDOW_MIN {
                self.window = (self.window / 2).max(WINDOW_MIN);
            } else {
                self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            }
        } else if self.pause > PAUSE_MIN {
            // Slower than it came, or it would swing.
            self.pause = self.pause * 7 / 8;
        } else if !self.pause.is_zero() {
            self.pause = Duration::ZERO;
        } else {
            self.window = (self.window + self.window / 8).min(WINDOW_MAX);
        }
    }

    fn piece(&self) -> u64 {
        self.window / WINDOW_MIN * WINDOW_MIN
    }

    /// How long to wait at least for a piece of so many bytes; none when it may begin.
    fn due(&mut self, bytes: u64, now: Instant) -> Option<Duration> {
        let unnoticed = |at: Instant| now.saturating_duration_since(at) > UNNOTICED_AFTER;
        if self.last_operation.is_none_or(unnoticed) {
            (self.window, self.pause) = (WINDOW_MAX, Duration::ZERO);
            self.recent.clear();
        }
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            return Some(at.saturating_duration_since(now));
        }
        let fits = self.turns == 0 || self.under_way + bytes <= self.window;
        (!fits).then_some(NAP_MAX)
    }

    fn ended(&mut self, bytes: u64, now: Instant) {
        self.under_way = self.under_way.saturating_sub(bytes);
        self.turns = self.turns.saturating_sub(1);
        if self.turns == 0 {
            self.idle_since = Some(now);
        }
        if !self.pause.is_zero() {
            self.not_before = self.not_before.max(Some(now + self.pause));
        }
    }
}

/// What so many percent of them do not exceed; there is at least one.
fn upper(latencies: &mut [Duration]) -> Duration {
    latencies.sort_unstable();
    let at = latencies.len().saturating_sub(1) * PERCENTILE / 100;
    latencies.get(at).copied().unwrap_or_default()
}

/// Half of them take no longer; there is at least one.
fn median(latencies: &mut [Duration]) -> Duration {
    latencies.sort_unstable();
    latencies.get(latencies.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(100);

    /// A copy beside an application, in a time of its own: each piece takes a millisecond for each 256 KiB, and an
    /// operation that meets one takes as much longer.
    struct World {
        control: Control,
        now: Instant,
        piece: Option<(u64, Instant)>,
        copied: u64,
        slow: usize,
        operations: usize,
    }

    impl World {
        fn new() -> Self {
            World {
                control: Control::default(),
                now: Instant::now(),
                piece: None,
                copied: 0,
                slow: 0,
                operations: 0,
            }
        }

        fn run(&mut self, time: Duration, works: bool) {
            let end = self.now + time;
            while self.now < end {
                if let Some((bytes, _)) = self.piece.filter(|(_, ends)| *ends <= self.now) {
                    self.control.ended(bytes, self.now);
                    self.copied += bytes;
                    self.piece = None;
                }
                let bytes = self.control.piece().min(1 << 20);
                if self.piece.is_none() && self.control.due(bytes, self.now).is_none() {
                    (self.control.turns, self.control.under_way) = (1, bytes);
                    self.piece = Some((bytes, self.now + Duration::from_micros(bytes >> 8)));
                }
                let began = self.now;
                let longer = self
                    .piece
                    .map_or(Duration::ZERO, |(bytes, _)| Duration::from_micros(bytes >> 8));
                self.now += QUICK;
                if works {
                    let latency = QUICK + longer;
                    self.operations += 1;
                    self.slow += usize::from(latency > QUICK * 3);
                    self.control.operation(began, began + latency);
                }
            }
        }
    }

    #[test]
    fn with_nobody_to_notice_the_window_is_open() {
        let mut world = World::new();
        world.run(Duration::from_secs(1), false);
        assert_eq!(world.control.window, WINDOW_MAX);
        assert!(world.copied > 200 << 20, "{}", world.copied);
    }

    #[test]
    fn the_window_shrinks_for_an_application_and_the_copy_goes_on() {
        let mut world = World::new();
        world.run(Duration::from_secs(2), true);
        (world.slow, world.operations, world.copied) = (0, 0, 0);
        world.run(Duration::from_secs(2), true);
        assert!(world.control.window <= 2 * WINDOW_MIN, "{}", world.control.window);
        assert!(world.copied > 12 << 20, "{}", world.copied);
        let share = world.slow as f64 / world.operations as f64;
        assert!(share < 0.5, "{share} of the operations were slow");
    }

    #[test]
    fn when_the_application_rests_the_window_opens_again() {
        let mut world = World::new();
        world.run(Duration::from_secs(1), true);
        assert!(world.control.window < WINDOW_MAX);
        world.run(Duration::from_millis(400), false);
        assert_eq!(world.control.window, WINDOW_MAX);
    }

    #[test]
    fn an_application_that_is_not_hurt_does_not_slow_a_copy() {
        let mut control = Control::default();
        let mut now = Instant::now();
        for _ in 0..50_000 {
            let began = now;
            now += QUICK;
            control.operation(began, now);
        }
        assert_eq!(control.window, WINDOW_MAX);
    }

    #[test]
    fn a_piece_larger_than_the_window_has_its_turn_alone() {
        let mut control = Control::default();
        let now = Instant::now();
        control.last_operation = Some(now);
        assert_eq!(control.due(WINDOW_MAX, now), None);
        (control.turns, control.under_way) = (1, WINDOW_MAX);
        assert!(control.due(1, now).is_some());
        control.ended(WINDOW_MAX, now);
        assert_eq!(control.due(1, now), None);
    }

    #[test]
    fn the_copy_holds_still_for_as_long_as_operations_take() {
        let mut control = Control::default();
        let now = Instant::now();
        (control.turns, control.under_way) = (1, WINDOW_MIN);
        let slow = Duration::from_millis(60);
        for n in 0..40 {
            let began = now + Duration::from_millis(n * 5);
            control.operation(began, began + slow);
        }
        let hold = control
            .not_before
            .unwrap()
            .saturating_duration_since(control.judged.unwrap());
        assert_eq!(hold, slow * 4);
    }

    #[test]
    fn who_waits_goes_on_when_the_copy_is_over() {
        let pace = Pace::default();
        pace.begin();
        let turn = pace.take(WINDOW_MAX, || false);
        pace.operation(Instant::now(), Instant::now());
        let other = pace.take(1, || true);
        drop((turn, other));
        let control = pace.lock();
        assert_eq!((control.turns, control.under_way), (0, 0));
    }
}
