//! The test of the failover tests: with a secondary that answers and loses, commits must be missing.

use lab::demo::{COMMITS_MIN, Stage};
use lab::mirror::MirrorOptions;
use std::path::Path;

#[test]
fn a_secondary_that_loses_what_it_answers_is_noticed() {
    let stage = Stage::set_up(
        Path::new("/srv/sidekick-control"),
        &MirrorOptions::default(),
        |_| {},
    )
    .unwrap();
    let ledger = stage.load(1).unwrap();
    stage.wait_for_commits(&ledger, COMMITS_MIN).unwrap();
    let state = stage.lab.host_directory("b").join("state");
    let module = std::fs::read_dir(&state).unwrap().next().unwrap().unwrap().path();
    std::fs::write(module.join("lose"), "").unwrap();
    let before = ledger.committed();
    stage.wait_for_commits(&ledger, before + 300).unwrap();
    let outcome = stage.fail_over(Some(ledger)).unwrap();
    assert!(
        outcome.count.lost() > 0,
        "nothing is missing, so a real loss would not be noticed: {outcome:?}"
    );
    println!(
        "lost {} of {}, as it must be",
        outcome.count.lost(),
        outcome.count.committed
    );
}
