//! Every kind of difference is found, and equal directories have none.

use super::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

/// Two directories made by the same steps.
struct Twins {
    holder: tempfile::TempDir,
}

impl Twins {
    fn of(make: impl Fn(&Path)) -> Self {
        let holder = tempfile::tempdir().unwrap();
        for side in ["first", "second"] {
            let root = holder.path().join(side);
            fs::create_dir(&root).unwrap();
            make(&root);
        }
        Twins { holder }
    }

    fn first(&self) -> std::path::PathBuf {
        self.holder.path().join("first")
    }

    fn second(&self) -> std::path::PathBuf {
        self.holder.path().join("second")
    }

    fn differences(&self, mtime: bool) -> Vec<String> {
        let report = compare(&self.first(), &self.second(), Options { mtime }).unwrap();
        report.differences.iter().map(ToString::to_string).collect()
    }
}

fn a_bit_of_everything(root: &Path) {
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/file"), b"data").unwrap();
    fs::hard_link(root.join("d/file"), root.join("link")).unwrap();
    symlink("d/file", root.join("symlink")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(&[1; 4096], 1 << 20).unwrap();
    sparse.set_len(4 << 20).unwrap();
    rustix::fs::mknodat(
        CWD,
        root.join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    rustix::fs::setxattr(root.join("d"), "user.a", b"1", XattrFlags::empty()).unwrap();
}

#[test]
fn directories_made_by_the_same_steps_are_equal() {
    let twins = Twins::of(a_bit_of_everything);
    assert_eq!(twins.differences(false), [] as [&str; 0]);
    let report = compare(&twins.first(), &twins.second(), Options { mtime: false }).unwrap();
    assert_eq!(report.entries, 7);
    assert_eq!(report.bytes, 4 + 4096);
}

#[test]
fn every_difference_is_named() {
    let twins = Twins::of(a_bit_of_everything);
    let second = twins.second();
    fs::set_permissions(second.join("fifo"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(second.join("d/file"), b"dada").unwrap();
    fs::remove_file(second.join("symlink")).unwrap();
    symlink("d/flie", second.join("symlink")).unwrap();
    rustix::fs::setxattr(second.join("d"), "user.a", b"2", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(second.join("sparse"), "user.b", b"2", XattrFlags::empty()).unwrap();
    fs::write(second.join("extra"), b"").unwrap();
    assert_eq!(
        twins.differences(false),
        [
            "\"extra\": only on the second side",
            "\"d\": value of attribute \"user.a\"",
            "\"d/file\": data from byte 2: 0x74 and 0x64",
            "\"fifo\": mode 0600 and 0644",
            "\"sparse\": attribute \"user.b\" only on the second side",
            "\"symlink\": link target Some(\"d/file\") and Some(\"d/flie\")",
        ]
    );
}

#[test]
fn a_hole_is_not_the_same_as_zeroes() {
    let twins = Twins::of(a_bit_of_everything);
    let sparse = fs::File::options()
        .write(true)
        .open(twins.second().join("sparse"))
        .unwrap();
    sparse.write_all_at(&vec![0; 128 << 10], 0).unwrap();
    let found = twins.differences(false);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("\"sparse\": holes: data at [1048576..1052672] and [0..131072, "));
}

#[test]
fn equal_files_that_are_links_on_one_side_only_differ() {
    let twins = Twins::of(|root| {
        for name in ["a", "b", "c"] {
            fs::write(root.join(name), b"x").unwrap();
        }
    });
    fs::remove_file(twins.first().join("b")).unwrap();
    fs::hard_link(twins.first().join("a"), twins.first().join("b")).unwrap();
    fs::remove_file(twins.second().join("b")).unwrap();
    fs::hard_link(twins.second().join("c"), twins.second().join("b")).unwrap();
    let found = twins.differences(false);
    assert!(
        found.contains(&"\"b\": hard link of \"a\" and of \"b\"".to_owned()),
        "{found:?}"
    );
}

#[test]
fn times_are_compared_to_the_nanosecond_if_asked_for() {
    let twins = Twins::of(|root| fs::write(root.join("f"), b"x").unwrap());
    let set = |root: &Path, name: &str, nanosecond| {
        let time = Timespec {
            tv_sec: 1_000_000_000,
            tv_nsec: nanosecond,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, root.join(name), &times, AtFlags::empty()).unwrap();
    };
    for root in [twins.first(), twins.second()] {
        set(&root, "f", 7);
        set(&root, ".", 7);
    }
    assert_eq!(twins.differences(true), [] as [&str; 0]);
    set(&twins.second(), "f", 8);
    assert_eq!(
        twins.differences(true),
        ["\"f\": mtime 1000000000.000000007 and 1000000000.000000008"]
    );
    assert_eq!(twins.differences(false), [] as [&str; 0]);
}

#[test]
fn the_reserved_directory_counts_in_the_root_only_as_absent() {
    let twins = Twins::of(|root| fs::create_dir(root.join("sub")).unwrap());
    fs::create_dir(twins.first().join(RESERVED)).unwrap();
    assert_eq!(twins.differences(false), [] as [&str; 0]);
    fs::create_dir(twins.first().join("sub").join(RESERVED)).unwrap();
    assert_eq!(
        twins.differences(false),
        ["\"sub/.sidekick\": only on the first side"]
    );
}

#[test]
fn the_reserved_attributes_count_in_the_root_only_as_absent() {
    let twins = Twins::of(|root| fs::create_dir(root.join("sub")).unwrap());
    let name = "trusted.sidekick.module";
    rustix::fs::setxattr(twins.first(), name, b"shop", XattrFlags::empty()).unwrap();
    assert_eq!(twins.differences(false), [] as [&str; 0]);
    rustix::fs::setxattr(twins.first().join("sub"), name, b"shop", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(twins.second(), "trusted.other", b"", XattrFlags::empty()).unwrap();
    assert_eq!(
        twins.differences(false),
        [
            "\".\": attribute \"trusted.other\" only on the second side",
            "\"sub\": attribute \"trusted.sidekick.module\" only on the first side"
        ]
    );
}

#[test]
fn what_is_excluded_is_left_out_and_what_looks_like_it_is_not() {
    let twins = Twins::of(|root| fs::create_dir(root.join("tmp")).unwrap());
    fs::write(twins.first().join("tmp/x"), b"1").unwrap();
    fs::create_dir_all(twins.second().join("tmp/deep/er")).unwrap();
    fs::write(twins.second().join("x.log"), b"2").unwrap();
    fs::write(twins.second().join("kept.log"), b"3").unwrap();
    fs::create_dir(twins.second().join("cache")).unwrap();
    fs::write(twins.first().join("cache"), b"4").unwrap();
    let exclude = ["tmp/*", "*.log", "!kept.log", "cache/"].map(str::to_owned);
    let (first, second) = (twins.first(), twins.second());
    let report = compare_without(&exclude, &first, &second, Options::default()).unwrap();
    let paths: Vec<_> = report
        .differences
        .iter()
        .map(|one| one.path.display().to_string())
        .collect();
    assert_eq!(paths, ["cache", "kept.log"]);
    assert!(
        compare(&first, &second, Options::default())
            .unwrap()
            .differences
            .len()
            > 4
    );
}
