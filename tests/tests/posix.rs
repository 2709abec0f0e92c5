//! The Rust pjdfstest on a plain directory, on a mirror in sync, and on a mirror whose secondary is gone.
//! Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod pair;

use lab::mirror::MirrorOptions;
use pair::Pair;
use std::fs;
use std::path::{Path, PathBuf};

/// All cases of this version of the suite.
const CASES: usize = 398;

/// What can be skipped: cases that remount the file system read-only (13), and one that wants to know the most
/// links a file may have, which the C library knows of ext4 and not of a FUSE file system.
const SKIPPED_MAX: usize = 14;

/// ext4 sets the time of change of what it renames and takes `UTIME_NOW`. Its time of birth is not what the
/// suite means by that feature (a field of `stat`), nor has Linux `chflags`.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.02
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Another file system, for renames and links across.
const OTHER_FILE_SYSTEM: &str = "/dev/shm";

#[test]
fn pjdfstest_finds_no_failure_on_the_mirror_in_sync_nor_alone() {
    let suite = suite();
    let pair = Pair::up(&MirrorOptions::default());
    run(&suite, &pair, &pair.plain).assert_good("the plain directory");
    run(&suite, &pair, &pair.dir).assert_good("the mirror in sync");
    pair.assert_in_sync();
    pair.lose_secondary();
    run(&suite, &pair, &pair.dir).assert_good("the mirror alone");
}

/// What one run came to.
struct Summary {
    failed: usize,
    skipped: usize,
    total: usize,
    /// Names of failed cases, each with the line that says why.
    failures: Vec<String>,
}

impl Summary {
    fn assert_good(&self, place: &str) {
        let Summary {
            failed,
            skipped,
            total,
            failures,
        } = self;
        println!("{place}: {failed} failed, {skipped} skipped of {total}");
        assert_eq!(*failed, 0, "on {place}: {failures:#?}");
        assert_eq!(*total, CASES, "on {place}");
        assert!(*skipped <= SKIPPED_MAX, "on {place}: {skipped} skipped");
    }
}

fn run(suite: &Path, pair: &Pair, directory: &Path) -> Summary {
    let configuration = pair.outside("pjdfstest.toml");
    fs::write(&configuration, CONFIGURATION).unwrap();
    let mut command = pair.lab.host("a").command(suite).unwrap();
    command.arg("-c").arg(&configuration).arg("-p").arg(directory);
    let output = command.args(["-s", OTHER_FILE_SYSTEM]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    summary(&said).unwrap_or_else(|| {
        panic!(
            "{} gave no summary: {}: {said}{}",
            suite.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// From `Summary: 0 failed, 13 skipped, 385 passed, 0 expected failures, 398 total`.
fn summary(said: &str) -> Option<Summary> {
    let line = said.lines().rev().find(|line| line.starts_with("Summary: "))?;
    let count = |what: &str| -> Option<usize> {
        let before = line.split(&format!(" {what}")).next()?;
        before.rsplit(' ').next()?.parse().ok()
    };
    let lines: Vec<_> = said.lines().collect();
    let failures = lines
        .iter()
        .zip(lines.iter().skip(1))
        .filter(|(case, _)| case.ends_with("FAILED"))
        .map(|(case, why)| format!("{} {}", case.trim_end_matches("FAILED").trim(), why.trim()))
        .collect();
    Some(Summary {
        failed: count("failed")?,
        skipped: count("skipped")?,
        total: count("total")?,
        failures,
    })
}

/// The program: `$PJDFSTEST`, or where `make test` installs it.
fn suite() -> PathBuf {
    if let Some(path) = std::env::var_os("PJDFSTEST") {
        return path.into();
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let own = std::env::current_exe().unwrap();
    let mut targets = own.ancestors().chain([workspace.as_path()]);
    targets
        .find_map(|target| Some(target.join("tools/bin/pjdfstest")).filter(|path| path.is_file()))
        .expect(
            "pjdfstest is not installed: run `make test`, or `cargo install pjdfstest --version 0.2.2 --root \
             target/tools` in the top directory, or name the program in PJDFSTEST",
        )
}

#[test]
fn the_summary_of_a_run_is_understood() {
    let said = "chmod::a    ok\nchmod::b     FAILED\n\tassertion failed\n\n\
                Summary: 1 failed, 13 skipped, 384 passed, 0 expected failures, 398 total\n";
    let summary = summary(said).unwrap();
    assert_eq!((summary.failed, summary.skipped, summary.total), (1, 13, 398));
    assert_eq!(summary.failures, ["chmod::b assertion failed"]);
}
