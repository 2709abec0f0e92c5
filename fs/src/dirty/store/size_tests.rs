//! Room on disk and in memory, and time, for large maps.

use super::tests::{EXTENT, generation, node, region};
use super::*;
use std::process::Command;
use std::time::Instant;

/// Makes a test's process the child of that test, and says where the state directory is.
const CHILD: &str = "SKFS_STORE_SIZE_CHILD";
const NODES: u64 = 1_000_000;

fn file_bytes(directory: &Path) -> u64 {
    std::fs::metadata(directory.join(file::FILE)).unwrap().len()
}

/// Adds a million records in groups.
fn add_many(store: &mut MapStore) {
    let mut group = Vec::new();
    for inode in 10..10 + NODES / 2 {
        group.push(node(inode));
        group.push(region(inode, 3));
        if group.len() >= 2000 {
            store.add(generation(1), &group).unwrap();
            group.clear();
        }
    }
    store.add(generation(1), &group).unwrap();
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimisation")]
fn the_file_does_not_grow_with_every_parting() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = MapStore::open(directory.path(), EXTENT).unwrap();
    let empty = file_bytes(directory.path());
    let mut full = Vec::new();
    for round in 0..3 {
        store.replace(&Saved::new(generation(1))).unwrap();
        add_many(&mut store);
        full.push(file_bytes(directory.path()));
        let began = Instant::now();
        store.clear().unwrap();
        let cleared = file_bytes(directory.path());
        println!(
            "round {round}: {full:?} bytes full, {cleared} cleared in {:?}",
            began.elapsed()
        );
        assert!(cleared <= 4 * empty, "{cleared} bytes cleared, {empty} at first");
    }
    assert!(full[0] < 200 << 20, "{full:?}");
    assert!(full[2] <= full[0] + full[0] / 10, "{full:?}");
    // The exact map in place of the records, as at a clean end: no more than twice, whatever comes after.
    store.replace(&Saved::new(generation(1))).unwrap();
    add_many(&mut store);
    let saved = store.load().unwrap().unwrap();
    for _ in 0..3 {
        store.replace(&saved).unwrap();
    }
    let replaced = file_bytes(directory.path());
    println!("{replaced} bytes after three replacements");
    assert!(replaced <= 3 * full[0], "{replaced}");
}

/// What the process does whose memory is looked at.
fn load_and_renumber(directory: &Path) {
    let began = Instant::now();
    let store = MapStore::open(directory, EXTENT).unwrap();
    println!("opened in {:?}", began.elapsed());
    let began = Instant::now();
    let saved = store.load().unwrap().unwrap();
    println!("loaded in {:?}", began.elapsed());
    assert_eq!(saved.nodes.len() as u64, NODES);
    let loaded = peak_kib();
    let renumbered = saved.renumber(|inode| InodeId(inode.0 + 1));
    assert!(renumbered.nodes.contains_key(&InodeId(11)));
    println!("peak {loaded} KiB loaded, {} renumbered", peak_kib());
    assert!(loaded < 400 << 10 && peak_kib() < 440 << 10);
}

/// The most memory that this process had at once.
fn peak_kib() -> u64 {
    // "VmHWM:   123456 kB"
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimisation")]
fn a_million_nodes_load_within_400_mib() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return load_and_renumber(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut store = MapStore::open(directory.path(), EXTENT).unwrap();
    let units = Units {
        stored: EXTENT,
        used: EXTENT,
    };
    let mut saved = Saved::new(generation(1));
    for inode in 10..10 + NODES {
        saved.fold(node(inode), units).unwrap();
        saved.fold(region(inode, 3), units).unwrap();
    }
    let began = Instant::now();
    store.replace(&saved).unwrap();
    println!(
        "{} bytes replaced in {:?}",
        file_bytes(directory.path()),
        began.elapsed()
    );
    drop((store, saved));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .arg(
            concat!(module_path!(), "::a_million_nodes_load_within_400_mib")
                .split_once("::")
                .unwrap()
                .1,
        )
        .env(CHILD, directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("renumbered"), "it ran no test: {text}");
    println!("{text}");
}

#[test]
#[ignore = "a measurement"]
fn what_a_group_costs() {
    // Not the temporary directory, which may be memory.
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let mut store = MapStore::open(directory.path(), EXTENT).unwrap();
    store.replace(&Saved::new(generation(1))).unwrap();
    for filled in [0, NODES] {
        if filled > 0 {
            add_many(&mut store);
        }
        let mut costs: Vec<_> = (0..2000)
            .map(|step| {
                let inode = 10 * NODES + step;
                let group = [node(inode), region(inode, 0)];
                let began = Instant::now();
                store.add(generation(1), &group).unwrap();
                began.elapsed().as_micros()
            })
            .collect();
        costs.sort_unstable();
        let at = |share: usize| costs[costs.len() * share / 1000];
        println!(
            "{filled} before: {} µs median, {} 99%, {} 99.9%",
            at(500),
            at(990),
            at(999)
        );
    }
    // The same with a file that is written and synced and nothing else: what the disk takes of it.
    let file = std::fs::File::create(directory.path().join("floor")).unwrap();
    let mut costs: Vec<_> = (0..2000)
        .map(|step| {
            let began = Instant::now();
            std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], step % 200 * 4096).unwrap();
            file.sync_data().unwrap();
            began.elapsed().as_micros()
        })
        .collect();
    costs.sort_unstable();
    println!(
        "one page written and synced: {} µs median, {} 99%",
        costs[1000], costs[1980]
    );
}
