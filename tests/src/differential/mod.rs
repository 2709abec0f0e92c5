//! The same random operations on two directories: every return value, errno and byte read must be equal.
//!
//! One directory is the mount, the other a plain one on the same kind of file system. Each thread works as
//! several users in a subtree of its own, so that the two sides see the same sequence. In the second kind of
//! run threads share names; then only the end can be compared.
//!
//! [`Step`] is generated without looking at the file system (`generate`) and carried out by [`World`].

mod generate;
mod step;
mod world;

pub use generate::Generator;
pub use step::{Outcome, Step, User};
pub use world::{Sharing, World};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// How many calls failed with each errno, and how many there were.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Tally {
    /// All calls.
    pub calls: u64,
    /// Failed calls by errno.
    pub errors: BTreeMap<i32, u64>,
}

impl Tally {
    fn count(&mut self, outcome: &Outcome) {
        self.calls += 1;
        if let Outcome::Errno(errno) = outcome {
            *self.errors.entry(*errno).or_default() += 1;
        }
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Tally) {
        self.calls += other.calls;
        for (errno, count) in &other.errors {
            *self.errors.entry(*errno).or_default() += count;
        }
    }

    /// Share of the calls that failed with `errno`, 0 to 1.
    pub fn share(&self, errno: rustix::io::Errno) -> f64 {
        let count = self.errors.get(&errno.raw_os_error()).copied().unwrap_or(0);
        count as f64 / self.calls.max(1) as f64
    }
}

/// The first step whose outcomes differed.
#[derive(Debug, thiserror::Error)]
#[error(
    "seed {seed}, thread {thread}, step {index}: {step:?} as {user:?} gave {mount:?} on the mount, {plain:?} on the plain directory"
)]
pub struct Difference {
    seed: u64,
    thread: u64,
    index: usize,
    step: Step,
    user: User,
    mount: Outcome,
    plain: Outcome,
}

/// Runs `threads` threads of `steps` steps each, every thread in its own subtree of both directories, and
/// compares step by step.
pub fn run_disjoint(
    mount: &Path,
    plain: &Path,
    seed: u64,
    threads: u64,
    steps: usize,
) -> anyhow::Result<Tally> {
    let results: Vec<anyhow::Result<Tally>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || one_thread(mount, plain, seed, thread, steps)))
            .collect();
        handles
            .into_iter()
            .map(|handle| {
                handle
                    .join()
                    .unwrap_or_else(|_| anyhow::bail!("a thread panicked"))
            })
            .collect()
    });
    let mut total = Tally::default();
    for result in results {
        total.add(&result?);
    }
    Ok(total)
}

fn one_thread(mount: &Path, plain: &Path, seed: u64, thread: u64, steps: usize) -> anyhow::Result<Tally> {
    let own = format!("t{thread}");
    world::own_umask()?;
    let mut on_mount = World::new(&mount.join(&own), Sharing::Alone)?;
    let mut on_plain = World::new(&plain.join(&own), Sharing::Alone)?;
    let mut generator = Generator::new(seed, thread);
    let mut tally = Tally::default();
    for index in 0..steps {
        let (user, step) = generator.next_step();
        let first = on_mount.run(user, &step);
        let second = on_plain.run(user, &step);
        tally.count(&first);
        if first != second {
            return Err(Difference {
                seed,
                thread,
                index,
                step,
                user,
                mount: first,
                plain: second,
            }
            .into());
        }
    }
    Ok(tally)
}

/// Runs `threads` threads in one shared subtree of `directory` only; nothing is compared here.
pub fn run_shared(directory: &Path, seed: u64, threads: u64, steps: usize) -> anyhow::Result<Tally> {
    let results: Vec<anyhow::Result<Tally>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    world::own_umask()?;
                    let mut world = World::new(&directory.join("shared"), Sharing::WithOthers)?;
                    let mut generator = Generator::new(seed, thread);
                    let mut tally = Tally::default();
                    for _ in 0..steps {
                        let (user, step) = generator.next_step();
                        tally.count(&world.run(user, &step));
                    }
                    Ok(tally)
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| {
                handle
                    .join()
                    .unwrap_or_else(|_| anyhow::bail!("a thread panicked"))
            })
            .collect()
    });
    let mut total = Tally::default();
    for result in results {
        total.add(&result?);
    }
    Ok(total)
}
