//! The loop of an executor, and the thread that relieves it.
//!
//! A reader may apply an operation on the loop, and a disk may hold that up at any time. Then a second thread, which
//! watches while readers run, takes the loop over within [`PATIENCE`]: packets, timers and other connections go on,
//! and only that reader waits for its disk. The thread that was held up watches from then on, or ends if another
//! does already.

use super::{AWAKE, HERE, Here, Leaves, Place, Shared, next_here};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tracing::{debug, error, warn};

/// How long the loop sleeps at most as long as something is going on. The timers of a busy connection, which each
/// packet moves, lie beyond it, and so need no wake-up of the loop.
const NAP: Duration = Duration::from_millis(20);
/// How long a reader may hold up the loop, give or take as much again.
const PATIENCE: Duration = Duration::from_millis(100);
/// Threads of one executor at most: so many readers can be held up at a time, less two.
const THREADS_MAX: usize = 8;

/// What the thread that watches goes by.
#[derive(Debug, Default)]
pub(super) struct Relief {
    /// When the reader that runs now began, in nanoseconds after the executor's epoch; 0 while none does. Who sets it
    /// back to 0 is the loop from then on.
    began: AtomicU64,
    /// Counts the runs of readers.
    runs: AtomicU64,
    /// Whoever watches is parked until a reader runs.
    is_parked: AtomicBool,
    watcher: Mutex<Option<Thread>>,
    threads: AtomicUsize,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Loop,
    Watcher,
}

/// Why a thread stops being the loop.
enum Left {
    /// Nothing is left to run.
    Over,
    Relieved,
}

impl Shared {
    /// Starts the loop and the thread that watches it.
    pub(super) fn start_threads(self: Arc<Self>) -> io::Result<()> {
        let watching = self.clone();
        self.relief.threads.store(2, Ordering::Release);
        spawn("link", move || self.serve(Role::Loop))?;
        spawn("link-relief", move || watching.serve(Role::Watcher))
    }

    fn serve(self: Arc<Self>, mut role: Role) {
        loop {
            role = match role {
                Role::Loop => match self.run_loop() {
                    Ok(Left::Relieved) => Role::Watcher,
                    Ok(Left::Over) => {
                        debug!("the network's loop has nothing to do any more");
                        self.relief.wake_watcher();
                        break;
                    }
                    Err(error) => {
                        error!(%error, "the loop of the network ended");
                        break;
                    }
                },
                Role::Watcher => {
                    if !self.watch() {
                        break;
                    }
                    debug!("an operation holds up the network's loop; another thread takes it over");
                    self.start_watcher();
                    Role::Loop
                }
            };
        }
        self.relief.threads.fetch_sub(1, Ordering::AcqRel);
    }

    fn start_watcher(self: &Arc<Self>) {
        if self.relief.threads.fetch_add(1, Ordering::AcqRel) >= THREADS_MAX {
            self.relief.threads.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let watching = self.clone();
        if let Err(error) = spawn("link-relief", move || watching.serve(Role::Watcher)) {
            self.relief.threads.fetch_sub(1, Ordering::AcqRel);
            warn!(%error, "cannot start the thread that relieves the network's loop");
        }
    }

    /// Waits until a reader holds up the loop; then this thread is the loop. False when there is nothing to watch
    /// any more, or another thread watches.
    fn watch(&self) -> bool {
        {
            let mut watcher = self.relief.watcher();
            if watcher.is_some() {
                return false;
            }
            *watcher = Some(std::thread::current());
        }
        let mut runs = 0;
        let relieves = loop {
            if self.is_over() {
                break false;
            }
            let began = self.relief.began.load(Ordering::Acquire);
            let now = self.nanos(Some(Instant::now()));
            let for_too_long = began != 0 && u128::from(now.saturating_sub(began)) >= PATIENCE.as_nanos();
            if for_too_long && self.relief.end(began) {
                break true;
            }
            let seen = self.relief.runs.load(Ordering::Acquire);
            if seen == runs && began == 0 {
                self.relief.is_parked.store(true, Ordering::SeqCst);
                // Whoever ran before that store did not unpark.
                if self.relief.runs.load(Ordering::SeqCst) == seen && !self.is_over() {
                    std::thread::park();
                }
                self.relief.is_parked.store(false, Ordering::SeqCst);
            } else {
                runs = seen;
                std::thread::park_timeout(PATIENCE);
            }
        };
        *self.relief.watcher() = None;
        relieves
    }

    fn is_over(&self) -> bool {
        self.alive.load(Ordering::Acquire) == 0
    }

    fn run_loop(self: &Arc<Self>) -> io::Result<Left> {
        HERE.with_borrow_mut(|here| {
            *here = Some(Here {
                shared: self.clone(),
                queue: std::collections::VecDeque::new(),
                is_loop: true,
            });
        });
        let _leaves = Leaves;
        let mut was_busy = false;
        loop {
            while let Some(task) = next_here() {
                was_busy = true;
                if task.place == Place::Loop {
                    // It may do an operation's work; what is ready to go does not wait for that.
                    self.socket.flush();
                    let began = self.nanos(Some(Instant::now()));
                    self.relief.begin(began);
                    task.run();
                    if !self.relief.end(began) {
                        return Ok(Left::Relieved);
                    }
                } else {
                    task.run();
                }
            }
            self.socket.flush();
            if self.take_queue() || self.timers.fire(Instant::now()) {
                continue;
            }
            if self.is_over() {
                return Ok(Left::Over);
            }
            was_busy = self.sleep(was_busy)?;
        }
    }

    /// Moves what others woke to this thread; false when there was nothing.
    fn take_queue(&self) -> bool {
        let taken = std::mem::take(&mut *self.queue());
        let some = !taken.is_empty();
        HERE.with_borrow_mut(|here| {
            if let Some(here) = here {
                here.queue.extend(taken);
            }
        });
        some
    }

    /// Waits for a packet, a timer or the bell; true when it was not a timer.
    fn sleep(&self, was_busy: bool) -> io::Result<bool> {
        let now = Instant::now();
        let mut until = self.timers.earliest();
        if was_busy {
            until = Some(until.map_or(now + NAP, |until| until.min(now + NAP)));
        }
        self.asleep.store(self.nanos(until), Ordering::SeqCst);
        // Whoever came before that store did not ring.
        let came = !self.queue().is_empty() || self.timers.is_due_before(until);
        let mut rang = false;
        if !came {
            let interest = if self.socket.is_blocked() {
                PollFlags::IN | PollFlags::OUT
            } else {
                PollFlags::IN
            };
            let mut fds = [
                PollFd::new(self.socket.as_ref(), interest),
                PollFd::new(&self.bell, PollFlags::IN),
            ];
            let timeout = until.map(|until| {
                let left = until.saturating_duration_since(now);
                Timespec {
                    tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                    tv_nsec: i64::from(left.subsec_nanos()),
                }
            });
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let [socket, bell] = fds.map(|fd| fd.revents());
            rang = !bell.is_empty();
            if rang {
                // Empty when a ring was counted together with the one before.
                let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            }
            if socket.contains(PollFlags::OUT) {
                self.socket.unblock();
            }
            if socket.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP) {
                self.socket.wake_reader();
                rang = true;
            }
        }
        self.asleep.store(AWAKE, Ordering::SeqCst);
        Ok(came || rang)
    }
}

impl Relief {
    fn begin(&self, now: u64) {
        self.began.store(now, Ordering::Release);
        self.runs.fetch_add(1, Ordering::SeqCst);
        if self.is_parked.swap(false, Ordering::SeqCst) {
            self.wake_watcher();
        }
    }

    /// The reader that began then has ended, or is left to itself; false when that was said before.
    fn end(&self, began: u64) -> bool {
        let ended = self
            .began
            .compare_exchange(began, 0, Ordering::AcqRel, Ordering::Acquire);
        ended.is_ok()
    }

    fn wake_watcher(&self) {
        if let Some(watcher) = &*self.watcher() {
            watcher.unpark();
        }
    }

    fn watcher(&self) -> std::sync::MutexGuard<'_, Option<Thread>> {
        // Replaced whole.
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
}
