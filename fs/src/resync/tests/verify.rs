//! Verifications of two directories: what differs is found and named, nothing else, and what is repaired is equal.

use super::garden::{Step, grow, steps};
use super::source::Copy;
use crate::backing::Store;
use crate::backing::tests::scratch::{Scratch, name};
use crate::backing::tests::tree::{tree_of, tree_without_holes_of};
use crate::control::verification::{Aspect, Difference, Repair, Report};
use crate::hash::{HashMap, HashSet};
use crate::operation::*;
use crate::resync::lane::{Carrier, CopyError, Lane};
use crate::resync::pace::Pace;
use crate::resync::progress::Orders;
use crate::resync::target;
use crate::resync::verify::{Findings, Session, Verify};
use crate::session::claims::{ClaimId, Scope};
use crate::session::names::unfilled_handle;
use crate::wire::bulk::{ToSource, ToTarget};
use crate::wire::frame::Message;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Two directories, a store over each.
struct Pair {
    dirs: [tempfile::TempDir; 2],
}

impl Pair {
    /// The same on both sides.
    fn new(script: impl Fn(&Path)) -> Self {
        let pair = Pair::empty();
        script(pair.here());
        pair.copy();
        pair
    }

    fn empty() -> Self {
        Pair {
            dirs: [(); 2].map(|()| tempfile::tempdir().unwrap()),
        }
    }

    fn here(&self) -> &Path {
        self.dirs[0].path()
    }

    fn there(&self) -> &Path {
        self.dirs[1].path()
    }

    fn stores(&self) -> [Arc<Store>; 2] {
        [self.here(), self.there()].map(|path| Arc::new(Scratch::over(path).store))
    }

    fn copy(&self) {
        let [here, there] = self.stores();
        Copy::new(&here, &there).run(false);
    }

    /// What a verification finds.
    fn verify(&self, repair: bool) -> Report {
        let [here, there] = self.stores();
        run(&here, &there, repair)
    }

    fn found(&self) -> Vec<(String, Aspect)> {
        self.shorten(&self.verify(false))
    }

    fn shorten(&self, report: &Report) -> Vec<(String, Aspect)> {
        let path = |one: &Difference| one.path.strip_prefix("/top").unwrap().to_owned();
        let mut found: Vec<_> = report.found.iter().map(|one| (path(one), one.aspect)).collect();
        found.sort();
        found
    }

    /// Repairs, and finds nothing any more.
    #[track_caller]
    fn assert_repaired(&self) {
        let report = self.verify(true);
        let left: Vec<_> = report
            .found
            .iter()
            .filter(|one| one.repair != Some(Repair::Done))
            .collect();
        assert!(left.is_empty(), "{left:#?}");
        assert_eq!(report.verification.repaired, report.verification.differences);
        assert_eq!(
            tree_without_holes_of(self.here()),
            tree_without_holes_of(self.there())
        );
        assert_eq!(self.found(), []);
    }
}

fn run(here: &Store, there: &Arc<Store>, repair: bool) -> Report {
    let quiet = Quiet {
        here,
        there,
        places: Mutex::default(),
        claims: AtomicUsize::new(0),
        held: AtomicUsize::new(0),
    };
    let findings = Findings::new(repair);
    let (orders, pace) = (Orders::default(), Pace::default());
    let verify = Verify::new(
        &quiet,
        here,
        &findings,
        &orders,
        &pace,
        repair,
        vec!["/top".into()],
    );
    let mut lanes = [(); 3].map(|()| {
        Lane::over(Box::new(Asked {
            there: there.clone(),
            answers: VecDeque::new(),
        }))
    });
    verify.run(&mut lanes).unwrap();
    findings.end(None);
    assert_eq!(quiet.held.load(Ordering::SeqCst), 0, "a claim is not given back");
    findings.report(&orders)
}

/// A primary without an application: whatever is claimed is granted.
struct Quiet<'a> {
    here: &'a Store,
    there: &'a Store,
    places: Mutex<HashMap<InodeId, (InodeId, Name)>>,
    claims: AtomicUsize,
    held: AtomicUsize,
}

impl Quiet<'_> {
    /// Tells the target of an inode as a session does: by its name, parents first.
    fn bind(&self, inode: InodeId, told: &mut HashSet<InodeId>) {
        let place = self.place_of(inode);
        if told.insert(inode)
            && let Some((parent, name)) = place
        {
            self.bind(parent, told);
            let handle = unfilled_handle();
            self.there.apply(&Operation::Bind {
                inode,
                parent,
                name,
                handle,
            });
        }
    }
}

impl Session for Quiet<'_> {
    fn is_over(&self) -> bool {
        false
    }

    fn claim(&self, _scope: Scope) -> Result<(ClaimId, Vec<InodeId>), CopyError> {
        self.held.fetch_add(1, Ordering::SeqCst);
        let claim = self.claims.fetch_add(1, Ordering::SeqCst) as u64;
        Ok((ClaimId(claim), vec![]))
    }

    fn release(&self, _claim: ClaimId) {
        self.held.fetch_sub(1, Ordering::SeqCst);
    }

    fn adopt(
        &self,
        root: usize,
        handle: &FileHandle,
        parent: InodeId,
        name: &Name,
    ) -> Result<InodeId, CopyError> {
        let (inode, _) = self.here.adopt(root, handle);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(inode).or_insert_with(|| (parent, name.clone()));
        Ok(inode)
    }

    fn place_of(&self, inode: InodeId) -> Option<(InodeId, Name)> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(&inode).cloned()
    }

    fn moved(&self, _most: usize) -> Vec<InodeId> {
        vec![]
    }

    fn mend(&self, _claim: ClaimId, operations: Vec<Operation>) -> Result<Result<(), String>, CopyError> {
        // Afresh, as a session does it. Others may look meanwhile: they know no numbers.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        self.there.forget_all();
        let mut told = HashSet::default();
        for operation in operations {
            match &operation {
                Operation::Bind { inode, parent, .. } => {
                    self.bind(*parent, &mut told);
                    told.insert(*inode);
                }
                Operation::Create(create) => {
                    self.bind(create.parent, &mut told);
                    told.insert(create.inode);
                }
                other => {
                    for inode in other.touches() {
                        self.bind(inode, &mut told);
                    }
                }
            }
            match self.there.apply(&operation) {
                Outcome::Applied(applied) if applied.length == operation.length() => {}
                Outcome::Refused(errno) if operation.is_done_already(errno) => {}
                outcome => return Ok(Err(format!("{operation:?}: {outcome:?}"))),
            }
        }
        Ok(Ok(()))
    }

    fn skipped_mount(&self, path: &str) {
        panic!("{path} is no mount point");
    }
}

/// The other side, without a connection.
struct Asked {
    there: Arc<Store>,
    answers: VecDeque<ToSource>,
}

impl Carrier for Asked {
    fn ask(&mut self, requests: &[ToTarget]) -> Result<(), CopyError> {
        assert!(self.answers.is_empty(), "an answer was not taken");
        for request in requests {
            assert!(request.only_looks());
            request.encode().unwrap();
            target::execute(&self.there, request, |answer| {
                answer.encode().unwrap();
                self.answers.push_back(answer);
            });
        }
        Ok(())
    }

    fn answers(&mut self, count: usize) -> Result<Vec<ToSource>, CopyError> {
        let answers = self.answers.drain(..count);
        let answers = answers.map(|answer| match answer {
            ToSource::Failed { errno, reason } => Err(CopyError::Target { errno, reason }),
            answer => Ok(answer),
        });
        answers.collect()
    }

    fn listed(&mut self, request: &ToTarget) -> Result<Vec<Name>, CopyError> {
        self.ask(std::slice::from_ref(request))?;
        let mut names = Vec::new();
        loop {
            match self.answers(1)?.pop().unwrap() {
                ToSource::Listed { names: some, more } => {
                    names.extend(some);
                    if !more {
                        return Ok(names);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_found_where_nothing_differs_and_whatever_differs_is_found_and_repaired(
        both in steps(60), other in steps(12),
    ) {
        differ(&both, &other);
    }
}

fn differ(both: &[Step], other: &[Step]) {
    let pair = Pair::new(|path| grow(path, both));
    assert_eq!(tree_of(pair.here()), tree_of(pair.there()));
    assert_eq!(pair.found(), []);
    grow(pair.there(), other);
    let equal = tree_without_holes_of(pair.here()) == tree_without_holes_of(pair.there());
    assert_eq!(pair.found().is_empty(), equal);
    pair.assert_repaired();
}

fn touch(path: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    fs::File::options()
        .read(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

/// A tree with one of everything that is planted in it below. Times are those of the past, so that a write shows.
fn plant(path: &Path) {
    fs::create_dir_all(path.join("d/e")).unwrap();
    for file in [
        "data", "size", "mode", "owner", "xattr", "type", "gone", "time", "d/e/deep",
    ] {
        fs::write(path.join(file), vec![3; 200_000]).unwrap();
    }
    fs::write(path.join("large"), vec![5; 5_000_000]).unwrap();
    fs::hard_link(path.join("data"), path.join("d/linked")).unwrap();
    for file in ["one", "two"] {
        fs::write(path.join(file), file).unwrap();
        fs::hard_link(path.join(file), path.join(format!("{file}-more"))).unwrap();
    }
    symlink("a", path.join("symlink")).unwrap();
    let sparse = fs::File::create(path.join("sparse")).unwrap();
    sparse.set_len(200 << 20).unwrap();
    sparse.write_all_at(b"middle", 70 << 20).unwrap();
}

/// Changes data without a trace in the attributes.
fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
    file.set_modified(modified).unwrap();
}

fn keep_time(path: &Path, change: impl FnOnce()) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    change();
    fs::File::open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn every_kind_of_difference_is_named() {
    let pair = Pair::new(plant);
    assert_eq!(pair.found(), []);
    let there = |below: &str| pair.there().join(below);
    let top = there("");
    flip(&there("data"), 70_000);
    flip(&there("large"), 1_200_000);
    flip(&there("large"), 1_300_000);
    flip(&there("large"), 4_999_999);
    flip(&there("sparse"), 150 << 20);
    fs::set_permissions(there("mode"), fs::Permissions::from_mode(0o4711)).unwrap();
    std::os::unix::fs::chown(there("owner"), Some(7), Some(9)).unwrap();
    rustix::fs::setxattr(
        there("xattr"),
        "user.extra",
        b"x",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    touch(&there("time"), 77);
    keep_time(&there("size"), || {
        let file = fs::File::options().write(true).open(there("size")).unwrap();
        file.set_len(100).unwrap();
    });
    keep_time(&top, || {
        for file in ["gone", "type", "symlink"] {
            fs::remove_file(there(file)).unwrap();
        }
        fs::create_dir(there("type")).unwrap();
        fs::write(there("type/inside"), "x").unwrap();
        symlink("b", there("symlink")).unwrap();
        fs::write(there("extra"), "x").unwrap();
        fs::rename(there("one-more"), there("x")).unwrap();
        fs::rename(there("two-more"), there("one-more")).unwrap();
        fs::rename(there("x"), there("two-more")).unwrap();
    });
    fs::remove_file(there("d/e/deep")).unwrap();
    let expected = [
        ("/d/e", Aspect::Mtime),
        ("/d/e/deep", Aspect::Missing),
        ("/extra", Aspect::Extra),
        ("/gone", Aspect::Missing),
        ("/large", Aspect::Data),
        ("/mode", Aspect::Mode),
        ("/one-more", Aspect::Identity),
        ("/owner", Aspect::Owner),
        ("/size", Aspect::Size),
        ("/size", Aspect::Data),
        ("/sparse", Aspect::Data),
        ("/symlink", Aspect::Type),
        ("/time", Aspect::Mtime),
        ("/two-more", Aspect::Identity),
        ("/type", Aspect::Type),
        ("/xattr", Aspect::Xattr),
    ];
    let mut expected: Vec<_> = expected
        .iter()
        .map(|(path, aspect)| ((*path).to_owned(), *aspect))
        .collect();
    let report = pair.verify(false);
    let mut found = pair.shorten(&report);
    // Read by one of its two names.
    let data = found
        .iter()
        .position(|(path, _)| path == "/data" || path == "/d/linked");
    assert_eq!(found.remove(data.unwrap()).1, Aspect::Data);
    expected.sort();
    assert_eq!(found, expected);
    let large = report.found.iter().find(|one| one.path.ends_with("/large"));
    let blocks = [(1_179_648, 1_310_720), (4_980_736, 5_000_000)];
    assert_eq!(large.unwrap().ranges, blocks);
    let counted = report.verification;
    assert_eq!((counted.directories, counted.others), (3, 1));
    assert!(counted.bytes > (200 << 20) && counted.error.is_none());
    pair.assert_repaired();
}

#[test]
fn directories_that_only_one_side_has_are_repaired_with_what_is_in_them() {
    let pair = Pair::new(|path| {
        plant(path);
        fs::create_dir_all(path.join("only-here/below/it")).unwrap();
        fs::write(path.join("only-here/below/it/file"), vec![9; 3_000_000]).unwrap();
        fs::hard_link(path.join("only-here/below/it/file"), path.join("only-here/link")).unwrap();
        fs::set_permissions(path.join("only-here"), fs::Permissions::from_mode(0o2751)).unwrap();
    });
    fs::remove_dir_all(pair.there().join("only-here")).unwrap();
    fs::create_dir_all(pair.there().join("only-there/below/it")).unwrap();
    fs::write(pair.there().join("only-there/below/file"), "x").unwrap();
    fs::remove_file(pair.there().join("d/linked")).unwrap();
    let found = pair.found();
    assert!(
        found.contains(&("/only-here".to_owned(), Aspect::Missing)),
        "{found:?}"
    );
    assert!(
        found.contains(&("/only-there".to_owned(), Aspect::Extra)),
        "{found:?}"
    );
    assert!(found.contains(&("/data".to_owned(), Aspect::Links)), "{found:?}");
    pair.assert_repaired();
}

#[test]
fn files_that_are_one_on_one_side_only_are_parted_and_joined() {
    let pair = Pair::new(|path| {
        for file in ["one", "two", "three", "four"] {
            fs::write(path.join(file), "the same").unwrap();
            touch(&path.join(file), 5);
        }
        fs::hard_link(path.join("one"), path.join("one-more")).unwrap();
        touch(path, 6);
    });
    keep_time(pair.there(), || {
        for (file, of) in [("two", "one"), ("four", "three")] {
            fs::remove_file(pair.there().join(file)).unwrap();
            fs::hard_link(pair.there().join(of), pair.there().join(file)).unwrap();
        }
    });
    let found = pair.found();
    // Which of two it is depends on which is looked at first.
    for some in [["/one", "/two"], ["/three", "/four"]] {
        let is_one =
            |(path, aspect): &(String, Aspect)| some.contains(&&**path) && *aspect == Aspect::Identity;
        assert!(found.iter().any(is_one), "{found:?}");
    }
    pair.assert_repaired();
}

#[test]
fn a_directory_that_was_replaced_behind_the_back_is_repaired_where_it_is_now() {
    let pair = Pair::new(plant);
    let [here, there] = pair.stores();
    // Both know it by a number already.
    for store in [&here, &there] {
        let found = store.look_up(InodeId(1), &name("d")).unwrap();
        store.learn(InodeId(50), 0, found.handle);
    }
    fs::rename(pair.there().join("d"), pair.there().join("elsewhere")).unwrap();
    fs::create_dir(pair.there().join("d")).unwrap();
    let report = run(&here, &there, true);
    assert!(report.verification.differences > 2);
    assert_eq!(pair.found(), []);
    assert_eq!(
        tree_without_holes_of(pair.here()),
        tree_without_holes_of(pair.there())
    );
}

#[test]
fn a_large_directory_and_long_links_take_several_answers() {
    let pair = Pair::new(|path| {
        for n in 0..3000 {
            symlink("x".repeat(4000), path.join(format!("link-{n}"))).unwrap();
        }
    });
    fs::remove_file(pair.there().join("link-2999")).unwrap();
    let found = pair.found();
    assert!(
        found.contains(&("/link-2999".to_owned(), Aspect::Missing)),
        "{found:?}"
    );
    assert_eq!(pair.verify(false).verification.others, 2999);
}

#[test]
fn too_much_to_remove_is_refused_with_what_to_do() {
    let pair = Pair::new(|_| {});
    let deep = "a/".repeat(150);
    fs::create_dir_all(pair.there().join(deep)).unwrap();
    let report = pair.verify(true);
    let extra = report
        .found
        .iter()
        .find(|one| one.aspect == Aspect::Extra)
        .unwrap();
    let Some(Repair::Failed { reason }) = &extra.repair else {
        panic!("{extra:?}");
    };
    assert!(reason.contains("by hand"), "{reason}");
    assert!(pair.there().join("a/a/a").exists());
}
