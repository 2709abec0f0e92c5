//! Connections that break and heal within `peer_stall`, under load. Needs root and FUSE.
//!
//! Applications check each answer against a model of what they did, so that an operation that is lost, or applied
//! twice, shows as an error (`EEXIST`, `ENOENT`) or in what the files hold at the end.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::mirror::MirrorOptions;
use lab::pair::Pair;
use lab::random::Random;
use lab::status::Wanted;
use lab::wait;
use rustix::fs::{CWD, RenameFlags, XattrFlags};
use skfs::control::event::What;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Appends numbered lines as fast as they are taken; gives how many, and the longest time one took.
fn append(path: &Path, over: &AtomicBool, done: &AtomicU64) -> (u64, Duration) {
    let mut file = File::options().append(true).create_new(true).open(path).unwrap();
    let (mut number, mut longest) = (0, Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        file.write_all(format!("{number:015}\n").as_bytes()).unwrap();
        if number % 64 == 63 {
            file.sync_data().unwrap();
        }
        longest = longest.max(start.elapsed());
        number += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
    (number, longest)
}

fn assert_every_line_once(path: &Path, count: u64) {
    let text = fs::read_to_string(path).unwrap();
    let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(
        numbers.iter().copied().eq(0..count),
        "{}: {} lines of {count}",
        path.display(),
        numbers.len()
    );
}

/// Names of one directory with the number that each file holds, and an application that changes both at once.
struct Names {
    directory: PathBuf,
    model: BTreeMap<String, u64>,
    random: Random,
    next: u64,
}

impl Names {
    fn new(directory: PathBuf, seed: u64) -> Names {
        fs::create_dir(&directory).unwrap();
        Names {
            directory,
            model: BTreeMap::new(),
            random: Random::new(seed),
            next: 0,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn fresh(&mut self) -> (String, u64) {
        self.next += 1;
        (format!("n{}", self.next), self.next)
    }

    fn any(&mut self) -> Option<(String, u64)> {
        let place = self.random.bits() as usize % self.model.len().max(1);
        let (name, number) = self.model.iter().nth(place)?;
        Some((name.clone(), *number))
    }

    /// One change that must succeed.
    fn step(&mut self) {
        let (name, number) = self.fresh();
        let Some((old, held)) = self.any().filter(|_| self.model.len() > 8) else {
            let file = File::create_new(self.path(&name)).unwrap();
            file.write_all_at(number.to_string().as_bytes(), 0).unwrap();
            self.model.insert(name, number);
            return;
        };
        let (other, other_held) = self.any().unwrap();
        let (from, to) = (self.path(&old), self.path(&name));
        match self.random.bits() % if self.model.len() > 40 { 5 } else { 8 } {
            0 | 1 => {
                fs::remove_file(&from).unwrap();
                self.model.remove(&old);
            }
            2 => {
                rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE).unwrap();
                self.model.remove(&old);
                self.model.insert(name, held);
            }
            3 => {
                // Between two names of one inode a rename does nothing.
                fs::rename(&from, self.path(&other)).unwrap();
                if held != other_held {
                    self.model.remove(&old);
                    self.model.insert(other, held);
                }
            }
            4 => {
                let to = self.path(&other);
                rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE).unwrap();
                self.model.insert(old, other_held);
                self.model.insert(other, held);
            }
            5 => {
                fs::hard_link(&from, &to).unwrap();
                self.model.insert(name, held);
            }
            6 => {
                fs::create_dir(&to).unwrap();
                let value = number.to_string();
                rustix::fs::setxattr(&to, "user.number", value.as_bytes(), XattrFlags::CREATE).unwrap();
                fs::remove_dir(&to).unwrap();
            }
            _ => {
                // As a careful program replaces a file.
                let mut file = File::create_new(&to).unwrap();
                file.write_all(number.to_string().as_bytes()).unwrap();
                file.sync_all().unwrap();
                fs::rename(&to, &from).unwrap();
                self.model.insert(old, number);
            }
        }
    }

    fn assert_found_in(&self, directory: &Path) {
        let found: BTreeMap<String, u64> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let number = fs::read_to_string(entry.path()).unwrap().parse().unwrap();
                (entry.file_name().into_string().unwrap(), number)
            })
            .collect();
        assert_eq!(found, self.model, "{}", directory.display());
    }
}

/// Which way is cut.
#[derive(Debug, Clone, Copy)]
enum Way {
    Both,
    There,
    Back,
}

/// Cuts and heals under load, then looks for what was lost, doubled or refused.
fn break_under_load(peer_stall: Duration, breaks: u64, cut_for: impl Fn(&mut Random) -> Duration) -> Pair {
    let options = MirrorOptions {
        peer_stall: Some(peer_stall),
        ..MirrorOptions::default()
    };
    let pair = Pair::up(&options).unwrap();
    let root = pair.path("a", "").unwrap();
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut random = Random::new(breaks);
    let mut names: Vec<Names> = (0..2)
        .map(|seed| Names::new(root.join(format!("names-{seed}")), seed))
        .collect();
    let mut longest = Duration::ZERO;
    std::thread::scope(|scope| {
        let appenders: Vec<_> = (0..2)
            .map(|number| {
                let (path, over, done) = (root.join(format!("log-{number}")), &over, &done);
                scope.spawn(move || append(&path, over, done))
            })
            .collect();
        for names in &mut names {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    names.step();
                }
            });
        }
        let _guard = pair.end_on_panic("a");
        for number in 0..breaks {
            let way = [Way::Both, Way::There, Way::Back][number as usize % 3];
            match way {
                Way::Both => pair.lab.cut("a", "b").unwrap(),
                Way::There => pair.lab.cut_one_way("a", "b").unwrap(),
                Way::Back => pair.lab.cut_one_way("b", "a").unwrap(),
            }
            let until = Instant::now() + cut_for(&mut random);
            wait::until_true(pair.lab.limit(), "the cut has lasted", || Instant::now() > until).unwrap();
            pair.lab.heal().unwrap();
            let before = done.load(Ordering::Relaxed);
            let what = format!("writes go on after break {number} ({way:?})");
            wait::until_true(pair.lab.limit(), &what, || {
                done.load(Ordering::Relaxed) > before + 20
            })
            .unwrap();
        }
        over.store(true, Ordering::Relaxed);
        for (number, appender) in appenders.into_iter().enumerate() {
            let (count, slowest) = appender.join().unwrap();
            longest = longest.max(slowest);
            for host in ["a", "b"] {
                let path = pair.backing(host).unwrap().join(format!("log-{number}"));
                assert_every_line_once(&path, count);
            }
        }
    });
    for (number, names) in names.iter().enumerate() {
        for host in ["a", "b"] {
            names.assert_found_in(&pair.backing(host).unwrap().join(format!("names-{number}")));
        }
    }
    pair.lab.wait_state("a", None, Wanted::InSync).unwrap();
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
    assert_eq!(pair.went_alone("a").unwrap(), [] as [&str; 0]);
    let steps: u64 = names.iter().map(|names| names.next).sum();
    println!(
        "{breaks} breaks: {} lines, {steps} name operations, {} resumed, longest write {longest:?}",
        done.load(Ordering::Relaxed),
        resumed(&pair),
    );
    assert!(longest < peer_stall, "{longest:?}");
    pair
}

fn resumed(pair: &Pair) -> usize {
    let events = pair.events("a").unwrap();
    let is_resumed = |what: &&What| matches!(what, What::ConnectionResumed { .. });
    events.iter().filter(is_resumed).count()
}

#[test]
fn short_breaks_of_the_path_are_bridged_and_no_operation_is_lost_or_applied_twice() {
    let peer_stall = Duration::from_secs(5);
    break_under_load(peer_stall, 80, |random| {
        Duration::from_millis(20 + random.bits() % 380)
    });
}

#[test]
fn sessions_outlive_their_connections_and_no_operation_is_lost_or_applied_twice() {
    let peer_stall = Duration::from_secs(3);
    let breaks = 20;
    // Longer than the connection lives in silence, half of peer_stall, and shorter than the session does.
    let pair = break_under_load(peer_stall, breaks, |random| {
        Duration::from_millis(1550 + random.bits() % 200)
    });
    assert!(resumed(&pair) >= breaks as usize / 2, "{}", resumed(&pair));
}
