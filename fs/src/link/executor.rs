//! Runs the futures of an endpoint: its connections, the writers and the readers of their streams.
//!
//! On this kind of path a wake-up of another thread costs more than everything that is done for a packet. So:
//! - what a thread wakes inside [`Executor::drive`] runs on that very thread, before `drive` returns: a request is
//!   sealed and handed to the kernel by the thread that has it;
//! - one thread, the loop ([`event_loop`]), waits for packets and timers, and runs what they wake, up to the operations
//!   that the packets carry;
//! - what anybody else wakes is run by the loop, at the cost of a wake-up.
//!
//! A task runs on one thread at a time; woken meanwhile, it runs again there. Readers ([`Place::Loop`]) run on the
//! loop only: they do the work of an operation, which no guest should be held up by.
//!
//! The loop ends with its last task; the task of the endpoint lives as long as any handle or connection of it.

use super::socket::Socket;
use super::timers::Timers;
use quinn::{AsyncTimer, AsyncUdpSocket};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tracing::{debug, error};

/// Most tasks that a guest runs before it leaves the rest to the loop: under constant load somebody always wakes
/// one more.
const GUEST_TASKS_MAX: usize = 256;
/// Not asleep.
const AWAKE: u64 = 0;
/// Asleep until somebody rings.
const FOREVER: u64 = u64::MAX;

type Future = Pin<Box<dyn std::future::Future<Output = ()> + Send>>;

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
}

/// Where a task may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On whichever thread wakes it inside [`Executor::drive`].
    Anywhere,
    /// On the loop.
    Loop,
}

struct Shared {
    socket: Arc<Socket>,
    timers: Timers,
    /// Woken by threads that do not run tasks.
    queue: Mutex<VecDeque<Arc<Task>>>,
    bell: OwnedFd,
    /// [`AWAKE`], or until when the loop sleeps, in nanoseconds after `epoch`.
    asleep: AtomicU64,
    epoch: Instant,
    alive: AtomicUsize,
    relief: Relief,
}

thread_local! {
    /// What this thread has woken and will run, if it runs tasks at all.
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

struct Here {
    shared: Arc<Shared>,
    queue: VecDeque<Arc<Task>>,
    is_loop: bool,
}

impl Executor {
    /// For the endpoint of `socket`.
    pub(super) fn new(socket: Arc<Socket>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket,
            timers: Timers::default(),
            queue: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            asleep: AtomicU64::new(AWAKE),
            epoch: Instant::now(),
            alive: AtomicUsize::new(0),
            relief: Relief::default(),
        });
        Ok(Executor { shared })
    }

    /// Starts the loop. To be called once the endpoint's task has been spawned: it ends with the last one.
    pub(super) fn start(&self) -> io::Result<()> {
        self.shared.clone().start_threads()
    }

    /// Begins to run `future`, which ends by itself.
    pub(super) fn spawn(&self, place: Place, future: impl std::future::Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(place, Box::pin(future));
    }

    fn spawn_boxed(&self, place: Place, future: Future) {
        self.shared.alive.fetch_add(1, Ordering::AcqRel);
        let task = Arc::new(Task {
            shared: self.shared.clone(),
            place,
            state: AtomicU8::new(SCHEDULED),
            future: Mutex::new(Some(future)),
        });
        task.enqueue();
    }

    /// Runs `work`, and then, on this thread, what it woke. To be called without a lock that a task could want.
    pub fn drive<R>(&self, work: impl FnOnce() -> R) -> R {
        let begins = HERE.with_borrow_mut(|here| {
            if here.is_none() {
                *here = Some(Here {
                    shared: self.shared.clone(),
                    queue: VecDeque::new(),
                    is_loop: false,
                });
                true
            } else {
                // A guest of a guest, or on the loop: what is woken runs once this returns to it.
                false
            }
        });
        if !begins {
            return work();
        }
        let _leaves = Leaves;
        let result = work();
        self.let_go();
        result
    }

    /// Runs what this thread has woken so far, and hands the kernel what comes of it: for a reader that goes on
    /// working for a while.
    pub fn let_go(&self) {
        for _ in 0..GUEST_TASKS_MAX {
            match next_here() {
                Some(task) => task.run(),
                None => break,
            }
        }
        if self.shared.socket.flush() {
            self.shared.ring();
        }
    }

    /// What `future` gives, or nothing when it takes longer than `limit`.
    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        future: impl std::future::Future<Output = T>,
    ) -> Option<T> {
        let mut timer = quinn::Runtime::new_timer(self, Instant::now() + limit);
        let elapsed = std::future::poll_fn(move |context| timer.as_mut().poll(context));
        tokio::select! {
            biased;
            result = future => Some(result),
            () = elapsed => None,
        }
    }
}

/// At the end of a guest's visit, after a panic as well: the loop does what is left.
struct Leaves;

impl Drop for Leaves {
    fn drop(&mut self) {
        let here = HERE.with_borrow_mut(Option::take);
        if let Some(Here { shared, queue, .. }) = here
            && !queue.is_empty()
        {
            shared.queue().extend(queue);
            shared.ring();
        }
    }
}

fn next_here() -> Option<Arc<Task>> {
    HERE.with_borrow_mut(|here| here.as_mut()?.queue.pop_front())
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Arc<Task>>> {
        // Only pushed to and popped from.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanos(&self, at: Option<Instant>) -> u64 {
        match at {
            None => FOREVER,
            Some(at) => {
                let nanos = at.saturating_duration_since(self.epoch).as_nanos();
                u64::try_from(nanos).unwrap_or(FOREVER).max(AWAKE + 1)
            }
        }
    }

    /// Wakes the loop if it sleeps.
    fn ring(&self) {
        if self.asleep.swap(AWAKE, Ordering::SeqCst) != AWAKE {
            self.ring_bell();
        }
    }

    /// Wakes the loop if it sleeps beyond `at`.
    fn ring_before(&self, at: Instant) {
        let asleep = self.asleep.load(Ordering::SeqCst);
        if asleep != AWAKE && self.nanos(Some(at)) < asleep {
            self.ring();
        }
    }

    fn ring_bell(&self) {
        if let Err(errno) = rustix::io::write(&self.bell, &1u64.to_ne_bytes()) {
            // EAGAIN after 2^64 rings that nobody heard.
            debug!(%errno, "the bell is rung already");
        }
    }
}

impl quinn::Runtime for Executor {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer {
            shared: self.shared.clone(),
            id: self.shared.timers.new_id(),
            at,
            is_set: false,
        })
    }

    fn spawn(&self, future: Future) {
        self.spawn_boxed(Place::Anywhere, future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(Socket::new(socket)?))
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Executor")
            .field("alive", &self.shared.alive)
            .finish_non_exhaustive()
    }
}

/// A timer of one task.
struct Timer {
    shared: Arc<Shared>,
    id: u64,
    at: Instant,
    is_set: bool,
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.clear();
        self.at = at;
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.at {
            self.clear();
            return Poll::Ready(());
        }
        self.shared.timers.set(self.at, self.id, context.waker());
        self.is_set = true;
        self.shared.ring_before(self.at);
        Poll::Pending
    }
}

impl Timer {
    fn clear(&mut self) {
        if std::mem::take(&mut self.is_set) {
            self.shared.timers.clear(self.at, self.id);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Timer")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

const IDLE: u8 = 0;
/// In one queue, once.
const SCHEDULED: u8 = 1;
const RUNNING: u8 = 2;
/// Running, and woken meanwhile.
const AGAIN: u8 = 3;
const ENDED: u8 = 4;

struct Task {
    shared: Arc<Shared>,
    place: Place,
    state: AtomicU8,
    /// None once it has ended. Never contended: only who takes the task from `SCHEDULED` to `RUNNING` looks at it.
    future: Mutex<Option<Future>>,
}

impl Task {
    fn enqueue(self: Arc<Self>) {
        let foreign = HERE.try_with(|here| match here.borrow_mut().as_mut() {
            Some(here)
                if Arc::ptr_eq(&here.shared, &self.shared)
                    && (here.is_loop || self.place == Place::Anywhere) =>
            {
                here.queue.push_back(self.clone());
                false
            }
            _ => true,
        });
        // An error: this thread is ending.
        if foreign.unwrap_or(true) {
            let shared = self.shared.clone();
            shared.queue().push_back(self);
            shared.ring();
        }
    }

    fn run(self: Arc<Self>) {
        self.state.store(RUNNING, Ordering::Release);
        let mut slot = self.future.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(future) = slot.as_mut() else { return };
        let waker = Waker::from(self.clone());
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        match polled {
            Ok(Poll::Pending) => {
                drop(slot);
                let idle = self
                    .state
                    .compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire);
                if idle.is_err() {
                    self.state.store(SCHEDULED, Ordering::Release);
                    self.enqueue();
                }
            }
            ended => {
                if ended.is_err() {
                    error!("a task of the network ended in a panic");
                }
                self.state.store(ENDED, Ordering::Release);
                *slot = None;
                drop(slot);
                if self.shared.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.shared.ring();
                }
            }
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let step = |state| match state {
            IDLE => Some(SCHEDULED),
            RUNNING => Some(AGAIN),
            _ => None,
        };
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, step) == Ok(IDLE) {
            self.enqueue();
        }
    }
}

mod event_loop;
#[cfg(test)]
mod tests;

use event_loop::Relief;
