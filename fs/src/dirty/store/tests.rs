//! What the store holds is what it was given, and what it cannot read it says.

use super::*;
use crate::dirty::extents::Extents;
use crate::dirty::marks::{Content, Place};
use crate::operation::Name;
use proptest::collection::{btree_set, vec};
use proptest::option::of;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;

pub const EXTENT: u64 = 64 << 10;

pub fn generation(number: u8) -> Generation {
    Generation([number; 16])
}

pub fn handle(number: u64) -> FileHandle {
    FileHandle {
        kind: 1,
        bytes: number.to_be_bytes().into(),
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// Introduces `inode` as most are: both handles, a place.
pub fn node(inode: u64) -> SavedRecord {
    SavedRecord::Node {
        inode: InodeId(inode),
        root: 0,
        handle: handle(inode),
        peer_handle: Some(handle(inode + 1)),
        place: Some(Place {
            parent: InodeId(1),
            name: name(&format!("file-{inode}.data")),
        }),
    }
}

pub fn region(inode: u64, index: u64) -> SavedRecord {
    SavedRecord::Region {
        inode: InodeId(inode),
        index,
    }
}

fn extents(ranges: &[(u64, u64)]) -> Content {
    let mut extents = Extents::default();
    for (start, end) in ranges {
        extents.insert(*start..*end);
    }
    Content::Extents(extents)
}

fn path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join(file::FILE)
}

fn any_handle() -> impl Strategy<Value = FileHandle> {
    (any::<i32>(), vec(any::<u8>(), 0..=128)).prop_map(|(kind, bytes)| FileHandle {
        kind,
        bytes: bytes.into(),
    })
}

fn any_name() -> impl Strategy<Value = Name> {
    vec(1..=255_u8, 1..=255).prop_filter_map("a separator", |bytes| Name::new(&bytes).ok())
}

fn any_inode() -> impl Strategy<Value = InodeId> {
    (1..=u64::MAX).prop_map(InodeId)
}

fn any_content() -> impl Strategy<Value = Content> {
    let ranges = vec((0..(1_u64 << 40), 1..1000_u64, any::<bool>()), 0..600).prop_map(|ranges| {
        let mut extents = Extents::default();
        for (start, length, open) in ranges {
            // One in many reaches to the end of the file, as a cut does.
            let end = if open && length == 1 {
                u64::MAX
            } else {
                start + length
            };
            extents.insert(start..end);
        }
        Content::Extents(extents)
    });
    prop_oneof![4 => ranges, 1 => Just(Content::Whole), 1 => Just(Content::Fresh)]
}

prop_compose! {
    fn any_node()(
        root in 0..64_u32,
        handle in any_handle(),
        peer_handle in of(any_handle()),
        place in of((any_inode(), any_name())),
        content in any_content(),
        attributes in any::<bool>(),
    ) -> Box<SavedNode> {
        let place = place.map(|(parent, name)| Place { parent, name });
        Box::new(SavedNode { root, handle, peer_handle, place, content, attributes })
    }
}

prop_compose! {
    fn any_saved()(
        generation in any::<[u8; 16]>(),
        names_moved in any::<bool>(),
        peer_checkpoint in any::<u64>(),
        [everything, changed, coarse] in any::<[bool; 3]>(),
        nodes in vec((any_inode(), any_node()), 0..40),
        names in vec((any_inode(), btree_set(any_name(), 1..20)), 0..10),
        additions in btree_set(any_inode(), 0..20),
    ) -> Saved {
        let generation = Generation(generation);
        let (nodes, names) = (nodes.into_iter().collect(), names.into_iter().collect());
        Saved {
            generation, names_moved, peer_checkpoint, everything, changed, coarse, nodes, names, additions,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_map_is_read_as_it_was_written(first in any_saved(), second in any_saved()) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = MapStore::open(directory.path(), EXTENT).unwrap();
        store.replace(&first).unwrap();
        prop_assert_eq!(store.load().unwrap(), Some(first));
        store.replace(&second).unwrap();
        drop(store);
        let store = MapStore::open(directory.path(), EXTENT).unwrap();
        prop_assert_eq!(store.generation(), Some(second.generation));
        prop_assert_eq!(store.load().unwrap(), Some(second));
    }

    #[test]
    fn any_bytes_are_records_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        let mut saved = Saved::new(generation(1));
        for record in Records::of(&bytes) {
            let Ok(record) = record else { break };
            let mut again = Vec::new();
            record.encode(&mut again).unwrap();
            prop_assert_eq!(SavedRecord::decode(&again).unwrap(), (record.clone(), &[][..]));
            let _ = saved.fold(record, Units { stored: EXTENT, used: 4096 });
        }
    }
}

/// The example in `docs/wire.md`.
#[test]
fn records_have_the_documented_bytes() {
    let bytes = [0x01, 0xac, 0x02, 0x02, 0x03, 0x05];
    let read: Vec<_> = Records::of(&bytes).collect();
    let attributes = SavedRecord::Attributes { inode: InodeId(5) };
    assert_eq!(read, [Ok(region(300, 2)), Ok(attributes.clone())]);
    let mut written = Vec::new();
    region(300, 2).encode(&mut written).unwrap();
    attributes.encode(&mut written).unwrap();
    assert_eq!(written, bytes);
}

#[test]
fn a_missing_file_is_made_private_and_holds_no_map() {
    let directory = tempfile::tempdir().unwrap();
    let store = MapStore::open(directory.path(), EXTENT).unwrap();
    assert_eq!(store.load().unwrap(), None);
    assert_eq!(store.generation(), None);
    let mode = std::fs::metadata(path(&directory)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert!(matches!(
        MapStore::open(directory.path(), EXTENT),
        Err(StoreError::InUse { .. })
    ));
}

#[test]
fn records_are_folded_into_what_they_say_together() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = MapStore::open(directory.path(), EXTENT).unwrap();
    let mut saved = Saved::new(generation(7));
    saved.peer_checkpoint = 41;
    store.replace(&saved).unwrap();
    let (file, cut, fresh, directory_inode) = (InodeId(10), InodeId(11), InodeId(12), InodeId(13));
    store
        .add(
            generation(7),
            &[node(10), region(10, 0), region(10, 1), region(10, 5)],
        )
        .unwrap();
    store.add(generation(7), &[]).unwrap();
    store
        .add(
            generation(7),
            &[
                node(11),
                SavedRecord::FromRegion { inode: cut, index: 2 },
                SavedRecord::Attributes { inode: cut },
                node(12),
                SavedRecord::Fresh { inode: fresh },
                SavedRecord::Whole { inode: fresh },
                region(12, 3),
                node(13),
                SavedRecord::Whole {
                    inode: directory_inode,
                },
                SavedRecord::Additions {
                    directory: directory_inode,
                },
                SavedRecord::Name {
                    directory: directory_inode,
                    name: name("a"),
                },
                SavedRecord::Name {
                    directory: directory_inode,
                    name: name("b"),
                },
                SavedRecord::Node {
                    inode: file,
                    root: 3,
                    handle: handle(99),
                    peer_handle: None,
                    place: None,
                },
            ],
        )
        .unwrap();
    let saved = store.load().unwrap().unwrap();
    assert_eq!((saved.generation, saved.peer_checkpoint), (generation(7), 41));
    assert!(!saved.names_moved && !saved.everything);
    assert_eq!(saved.nodes.len(), 4);
    let node = &saved.nodes[&file];
    assert_eq!(node.content, extents(&[(0, 512), (5 * 256, 6 * 256)]));
    assert_eq!(
        (node.root, node.attributes),
        (0, false),
        "the first introduction counts"
    );
    assert_eq!(node.place.as_ref().unwrap().name, name("file-10.data"));
    assert_eq!(saved.nodes[&cut].content, extents(&[(512, u64::MAX)]));
    assert!(saved.nodes[&cut].attributes);
    assert_eq!(saved.nodes[&fresh].content, Content::Fresh);
    assert_eq!(saved.nodes[&directory_inode].content, Content::Whole);
    assert_eq!(saved.names[&directory_inode], [name("a"), name("b")].into());
    assert_eq!(saved.additions, [directory_inode].into());

    store
        .set_names_moved(generation(7), &[(file, handle(50)), (InodeId(999), handle(51))])
        .unwrap();
    let saved = store.load().unwrap().unwrap();
    assert!(saved.names_moved);
    assert_eq!(saved.nodes[&file].peer_handle, Some(handle(50)));
    assert_eq!(saved.nodes.len(), 4);
    assert_eq!(saved.peer_checkpoint, 41);

    let renumbered = saved.renumber(|inode| InodeId(inode.0 + 1000));
    let node = &renumbered.nodes[&InodeId(1010)];
    assert_eq!(node.place.as_ref().unwrap().parent, InodeId(1001));
    assert_eq!(renumbered.names[&InodeId(1013)].len(), 2);
    assert_eq!(renumbered.additions, [InodeId(1013)].into());
    store.replace(&renumbered).unwrap();
    assert_eq!(store.load().unwrap(), Some(renumbered));

    store.clear().unwrap();
    assert_eq!(store.load().unwrap(), None);
    store.clear().unwrap();
}

#[test]
fn a_map_with_another_extent_is_converted_to_what_covers_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = MapStore::open(directory.path(), 64 << 10).unwrap();
    let mut saved = Saved::new(generation(1));
    saved
        .fold(
            node(5),
            Units {
                stored: 1 << 16,
                used: 1 << 16,
            },
        )
        .unwrap();
    saved.nodes.get_mut(&InodeId(5)).unwrap().content = extents(&[(3, 5), (100, u64::MAX)]);
    store.replace(&saved).unwrap();
    drop(store);
    let content = |extent_bytes| {
        let mut store = MapStore::open(directory.path(), extent_bytes).unwrap();
        store.add(generation(1), &[region(5, 1)]).unwrap();
        store
            .load()
            .unwrap()
            .unwrap()
            .nodes
            .remove(&InodeId(5))
            .unwrap()
            .content
    };
    assert_eq!(content(32 << 10), extents(&[(6, 10), (200, u64::MAX)]));
    assert_eq!(content(256 << 10), extents(&[(0, 2), (25, u64::MAX)]));
}

#[test]
fn records_of_another_map_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = MapStore::open(directory.path(), EXTENT).unwrap();
    let refused = |store: &mut MapStore| {
        matches!(
            store.add(generation(2), &[node(5)]),
            Err(StoreError::OtherGeneration { .. })
        ) && matches!(
            store.set_names_moved(generation(2), &[]),
            Err(StoreError::OtherGeneration { .. })
        )
    };
    assert!(refused(&mut store), "there is no map");
    store.replace(&Saved::new(generation(1))).unwrap();
    assert!(refused(&mut store), "there is another's");
    store.clear().unwrap();
    assert!(matches!(
        store.add(generation(1), &[node(5)]),
        Err(StoreError::OtherGeneration { held: None, .. })
    ));
}

#[test]
fn a_record_that_could_not_be_read_again_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = MapStore::open(directory.path(), EXTENT).unwrap();
    store.replace(&Saved::new(generation(1))).unwrap();
    let long = FileHandle {
        kind: 1,
        bytes: vec![0; 129].into(),
    };
    let bad = [
        region(5, u64::MAX / REGION_BYTES),
        region(0, 0),
        SavedRecord::PeerHandle {
            inode: InodeId(5),
            handle: long,
        },
        SavedRecord::Extents {
            inode: InodeId(5),
            ranges: vec![(3, 3)],
        },
        SavedRecord::Extents {
            inode: InodeId(5),
            ranges: vec![],
        },
    ];
    for record in bad {
        let refused = store.add(generation(1), &[node(5), record.clone()]);
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{record:?}");
    }
    assert_eq!(store.load().unwrap(), Some(Saved::new(generation(1))));
    store.add(generation(1), &[node(5)]).unwrap();
    assert_eq!(store.load().unwrap().unwrap().nodes.len(), 1);
}

/// Changes the tables behind the store's back.
fn tamper(path: &Path, change: impl FnOnce(&WriteTransaction)) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

#[test]
fn a_newer_format_is_told_apart_from_a_damaged_file() {
    let directory = tempfile::tempdir().unwrap();
    drop(MapStore::open(directory.path(), EXTENT).unwrap());
    let set_format = |bytes: &'static [u8]| {
        tamper(&path(&directory), |transaction| {
            let mut head = transaction.open_table(HEAD).unwrap();
            head.insert(KEY_FORMAT, bytes).unwrap();
        });
        MapStore::open(directory.path(), EXTENT).unwrap_err()
    };
    assert!(matches!(
        set_format(&[0, 0, 0, 3]),
        StoreError::Newer { found: 3, .. }
    ));
    for earlier in [&[0, 0, 0, 0], &[0, 0, 0, 1]] {
        assert!(matches!(set_format(earlier), StoreError::Unreadable { .. }));
    }
    assert!(matches!(set_format(&[1]), StoreError::Unreadable { .. }));
    let text = set_format(&[0, 0, 1, 0]).to_string();
    assert!(
        text.contains("dirty.redb") && text.contains("compared completely"),
        "{text}"
    );
}

#[test]
fn what_is_no_record_makes_the_map_unreadable() {
    let unreadable = |change: &dyn Fn(&WriteTransaction)| {
        let directory = tempfile::tempdir().unwrap();
        let mut store = MapStore::open(directory.path(), EXTENT).unwrap();
        store.replace(&Saved::new(generation(1))).unwrap();
        for inode in 5..8 {
            store.add(generation(1), &[node(inode)]).unwrap();
        }
        drop(store);
        tamper(&path(&directory), change);
        let error = match MapStore::open(directory.path(), EXTENT) {
            Ok(store) => store.load().unwrap_err(),
            Err(error) => error,
        };
        matches!(error, StoreError::Unreadable { .. })
    };
    let put = |key: u64, value: &'static [u8]| {
        move |transaction: &WriteTransaction| {
            let mut groups = transaction.open_table(GROUPS).unwrap();
            groups.insert(key, value).unwrap();
        }
    };
    assert!(unreadable(&put(1, &[200])), "no such variant");
    assert!(unreadable(&put(1, &[3, 0])), "inode 0");
    assert!(unreadable(&put(1, &[3])), "cut short");
    assert!(unreadable(&put(4, &[3, 5])), "one is missing");
    assert!(unreadable(&put(3, &[3, 77])), "not introduced");
    assert!(unreadable(&|transaction| {
        transaction.open_table(GROUPS).unwrap().remove(1).unwrap();
    }));
    assert!(unreadable(&|transaction| {
        transaction
            .open_table(HEAD)
            .unwrap()
            .insert(KEY_MAP, [1_u8, 2].as_slice())
            .unwrap();
    }));
    assert!(unreadable(&|transaction| {
        transaction.delete_table(HEAD).unwrap();
    }));
    assert!(unreadable(&|transaction| {
        transaction.delete_table(GROUPS).unwrap();
    }));
}

#[test]
fn an_unreadable_file_is_kept_aside_and_a_new_one_begun() {
    let directory = tempfile::tempdir().unwrap();
    for content in ["", "nonsense", "second"] {
        std::fs::write(path(&directory), content).unwrap();
        let error = MapStore::open(directory.path(), EXTENT).unwrap_err();
        assert!(
            matches!(error, StoreError::Unreadable { .. }),
            "{content:?}: {error}"
        );
        assert_eq!(
            std::fs::read_to_string(path(&directory)).unwrap(),
            content,
            "it is left alone"
        );
    }
    let store = MapStore::begin_anew(directory.path(), EXTENT).unwrap();
    assert_eq!(store.load().unwrap(), None);
    let aside = directory.path().join(file::UNREADABLE);
    assert_eq!(std::fs::read_to_string(&aside).unwrap(), "second");
    drop(store);
    std::fs::write(path(&directory), "third").unwrap();
    // Left by one that was ended here.
    std::fs::write(directory.path().join("dirty.redb.new"), "half").unwrap();
    drop(MapStore::begin_anew(directory.path(), EXTENT).unwrap());
    assert_eq!(std::fs::read_to_string(&aside).unwrap(), "third");
    assert!(MapStore::open(directory.path(), EXTENT).is_ok());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
}
