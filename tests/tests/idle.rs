//! What a pair costs that has nothing to do. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::mirror::MirrorOptions;
use lab::pair::Pair;
use lab::wait;
use std::fs;
use std::time::{Duration, Instant};

/// Most context switches per second of both `skfs` together.
const SWITCHES_MAX: f64 = 20.0;

/// Context switches of all threads of a process so far, wanted and unwanted.
fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |task: std::io::Result<fs::DirEntry>| -> u64 {
        // A thread that ends meanwhile takes its count with it; an idle process has few of those.
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        let counts = status
            .lines()
            .filter_map(|line| line.split_once("ctxt_switches:"));
        counts
            .map(|(_, count)| count.trim().parse::<u64>().unwrap())
            .sum()
    };
    tasks.map(of_task).sum()
}

fn check_idle(duration: Duration) {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell(
        "a",
        "for i in 1 2 3 4 5; do echo $i > file$i; done; cat file*; ls -l; sync",
    )
    .unwrap();
    let pids = ["a", "b"].map(|host| pair.skfs(host).unwrap().pid);
    // The work before leaves something to do for some seconds: threads end, the connection finds its packet size.
    let mut last = (Instant::now(), pids.map(switches));
    wait::until_true(pair.lab.limit(), "the pair has come to rest", || {
        let (since, count) = last;
        if since.elapsed() < Duration::from_secs(1) {
            return false;
        }
        let now = pids.map(switches);
        let new: u64 = now
            .iter()
            .zip(count)
            .map(|(now, before)| now.saturating_sub(before))
            .sum();
        let rested = new as f64 <= SWITCHES_MAX * since.elapsed().as_secs_f64();
        last = (Instant::now(), now);
        rested
    })
    .unwrap();
    let start = Instant::now();
    let before = pids.map(switches);
    wait::until_true(duration * 2, "the time is over", || start.elapsed() >= duration).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let after = pids.map(switches);
    let rate = |host: usize| after[host].saturating_sub(before[host]) as f64 / seconds;
    println!(
        "context switches per second: primary {:.1}, secondary {:.1}",
        rate(0),
        rate(1)
    );
    assert!(
        rate(0) + rate(1) <= SWITCHES_MAX,
        "{:.1} and {:.1}",
        rate(0),
        rate(1)
    );
    assert_eq!(pair.status("a").unwrap().in_sync, Some(true));
}

#[test]
fn an_idle_pair_hardly_wakes_up() {
    check_idle(Duration::from_secs(10));
}

#[test]
#[ignore = "takes a minute; the short one measures the same"]
fn a_pair_that_is_idle_for_a_minute_hardly_wakes_up() {
    check_idle(Duration::from_secs(60));
}
