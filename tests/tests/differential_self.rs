//! The differential test must be able to find a difference: two plain directories agree, and one that was
//! tampered with does not.

use lab::differential::run_disjoint;
use rustix::io::Errno;

#[test]
fn two_plain_directories_agree_and_the_calls_fail_often_enough_in_each_way() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tally = run_disjoint(one.path(), other.path(), 1, 2, 5000).unwrap();
    for errno in [Errno::NOENT, Errno::EXIST, Errno::NOTEMPTY, Errno::ACCESS] {
        let share = tally.share(errno);
        assert!(
            share >= 0.01,
            "{errno} in {:.2} % of {} calls: {:?}",
            share * 100.0,
            tally.calls,
            tally.errors
        );
    }
}

#[test]
fn a_directory_that_differs_is_found() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir_all(other.path().join("t0/n0/n1")).unwrap();
    let difference = run_disjoint(one.path(), other.path(), 1, 1, 5000)
        .unwrap_err()
        .to_string();
    assert!(difference.contains("seed 1, thread 0"), "{difference}");
}
