//! Blocks compared, written and punched; data told from holes.

use super::super::Segment;
use super::scratch::*;
use super::tree::holes_of;
use crate::operation::*;
use crate::wire::bulk::{BLOCK_BYTES, Block, Sum};
use rustix::fs::FallocateFlags;
use rustix::io::Errno as E;
use std::fs;

const BLOCK: usize = BLOCK_BYTES as usize;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 7 % 251) as u8 + 1).collect()
}

fn block(inode: InodeId, offset: usize, data: &[u8]) -> Block {
    Block {
        inode,
        offset: offset as u64,
        length: data.len() as u32,
        sum: Sum::of(data),
    }
}

/// The blocks of a file that holds `data`.
fn blocks(inode: InodeId, data: &[u8]) -> Vec<Block> {
    let offsets = (0..).step_by(BLOCK);
    offsets
        .zip(data.chunks(BLOCK))
        .map(|(offset, data)| block(inode, offset, data))
        .collect()
}

fn segment(offset: usize, length: usize, is_data: bool) -> Segment {
    Segment {
        offset: offset as u64,
        length: length as u64,
        is_data,
    }
}

#[test]
fn equal_blocks_are_found_among_different_ones() {
    let scratch = Scratch::new();
    let mut data = pattern(5 * BLOCK + 100);
    let (one, other) = (scratch.file("one", &data), scratch.file("other", b"other"));
    let mut asked = blocks(one, &data);
    asked.insert(3, block(other, 0, b"other"));
    asked.push(block(other, 0, b"othex"));
    assert_eq!(
        scratch.store.compare(&asked).unwrap(),
        [true, true, true, true, true, true, true, false]
    );

    data[BLOCK + 5] ^= 1;
    data[5 * BLOCK + 99] ^= 1;
    let found = scratch.store.compare(&blocks(one, &data)).unwrap();
    assert_eq!(found, [true, false, true, true, true, false]);
    assert!(scratch.store.compare(&[]).unwrap().is_empty());
}

#[test]
fn a_block_that_reaches_beyond_the_end_or_lies_there_is_not_equal() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", &pattern(1000));
    let longer = [pattern(1000), vec![0]].concat();
    let asked = [
        block(inode, 0, &longer),
        block(inode, 1000, &[0]),
        block(inode, BLOCK, &[0; 100]),
        block(inode, 0, &pattern(999)),
    ];
    assert_eq!(
        scratch.store.compare(&asked).unwrap(),
        [false, false, false, true]
    );
    let empty = scratch.file("empty", b"");
    assert_eq!(scratch.store.compare(&[block(empty, 0, &[0])]).unwrap(), [false]);
}

#[test]
fn zeroes_and_a_hole_are_not_the_same() {
    let scratch = Scratch::new();
    let zeroes = vec![0; 4 * BLOCK];
    let (written, hole) = (scratch.file("written", &zeroes), scratch.file("hole", b""));
    let allocated = scratch.file("allocated", b"");
    scratch.applied(&attributes(
        hole,
        Attributes {
            size: Some(4 * BLOCK_BYTES),
            ..Attributes::default()
        },
    ));
    let file = fs::File::options()
        .write(true)
        .open(scratch.path("allocated"))
        .unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 4 * BLOCK_BYTES).unwrap();
    // Once read, the kernel takes what was never written for data.
    assert_eq!(fs::read(scratch.path("allocated")).unwrap(), zeroes);

    let equal = |inode| scratch.store.compare(&blocks(inode, &zeroes)).unwrap();
    assert_eq!(equal(written), [true; 4]);
    assert_eq!(equal(hole), [false; 4]);
    assert_eq!(equal(allocated), [false; 4]);
    // One page of a hole suffices.
    scratch
        .store
        .make_hole(written, BLOCK_BYTES + 8192, 4096)
        .unwrap();
    assert_eq!(equal(written), [true, false, true, true]);
    scratch
        .store
        .write_block(hole, 2 * BLOCK_BYTES, &zeroes[..BLOCK])
        .unwrap();
    assert_eq!(equal(hole), [false, false, true, false]);
    assert_eq!(
        scratch
            .store
            .compare(&[block(hole, 2 * BLOCK + 500, &zeroes[..1000])])
            .unwrap(),
        [true]
    );
}

#[test]
fn data_and_holes_are_told_apart_within_any_range() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"");
    let data = pattern(2 * BLOCK);
    scratch.store.write_block(inode, BLOCK_BYTES, &data).unwrap();
    scratch
        .store
        .write_block(inode, 8 * BLOCK_BYTES, &data[..100])
        .unwrap();
    let segments = |offset, length| scratch.store.data_segments(inode, offset, length).unwrap();
    let all = [
        segment(0, BLOCK, false),
        segment(BLOCK, 2 * BLOCK, true),
        segment(3 * BLOCK, 5 * BLOCK, false),
        segment(8 * BLOCK, 100, true),
    ];
    assert_eq!(segments(0, u64::MAX), all);
    assert_eq!(segments(0, 8 * BLOCK_BYTES + 100), all);
    let middle = [
        segment(BLOCK + 7, 2 * BLOCK - 7, true),
        segment(3 * BLOCK, 1, false),
    ];
    assert_eq!(segments(BLOCK_BYTES + 7, 2 * BLOCK_BYTES - 6), middle);
    assert_eq!(segments(4 * BLOCK_BYTES, 10), [segment(4 * BLOCK, 10, false)]);
    assert_eq!(segments(8 * BLOCK_BYTES + 100, 10), []);
    assert_eq!(segments(99 * BLOCK_BYTES, 10), []);
    assert_eq!(segments(0, 0), []);

    let size = Some(10 * BLOCK_BYTES + 5);
    scratch.applied(&attributes(
        inode,
        Attributes {
            size,
            ..Attributes::default()
        },
    ));
    let tail = 8 * BLOCK + 4096;
    assert_eq!(
        segments(9 * BLOCK_BYTES, u64::MAX),
        [segment(9 * BLOCK, BLOCK + 5, false)]
    );
    assert_eq!(
        segments(tail as u64, u64::MAX),
        [segment(tail, 10 * BLOCK + 5 - tail, false)]
    );
}

#[test]
fn what_was_only_allocated_turns_out_a_hole_when_the_cache_is_dropped() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", b"");
    let allocate = Operation::Fallocate {
        inode,
        mode: FallocateMode::Allocate,
        offset: 0,
        length: BLOCK_BYTES,
        time: None,
        set_mode: None,
    };
    scratch.applied(&allocate);
    fs::read(scratch.path("file")).unwrap();
    let segments = || scratch.store.data_segments(inode, 0, BLOCK_BYTES).unwrap();
    assert_eq!(segments(), [segment(0, BLOCK, true)]);
    scratch.store.settle(inode, 0, BLOCK_BYTES).unwrap();
    assert_eq!(segments(), [segment(0, BLOCK, false)]);
}

#[test]
fn a_block_is_written_wherever_it_belongs_and_covered_by_the_next_sync() {
    let scratch = Scratch::new();
    let inode = scratch.create(ROOT, "file", NodeKind::File, 0o000);
    let data = pattern(3 * BLOCK);
    scratch.store.write_block(inode, 10 * BLOCK_BYTES, &data).unwrap();
    assert_eq!(
        fs::metadata(scratch.path("file")).unwrap().len(),
        13 * BLOCK_BYTES
    );
    assert_eq!(scratch.store.durable.written.count(), 1);
    scratch
        .store
        .write_block(inode, 11 * BLOCK_BYTES, &data[..10])
        .unwrap();
    let found = scratch.store.read(inode, 11 * BLOCK_BYTES, BLOCK).unwrap();
    assert_eq!(
        (&found[..10], &found[10..]),
        (&data[..10], &data[BLOCK + 10..2 * BLOCK])
    );
    let directory = scratch.directory(ROOT, "directory");
    assert_eq!(
        scratch.store.write_block(directory, 0, b"x"),
        Err(E::ISDIR.into())
    );
    assert_eq!(
        scratch.store.write_block(InodeId(99), 0, b"x"),
        Err(E::STALE.into())
    );
    let failure = scratch.store.compare(&[block(directory, 0, b"x")]).unwrap_err();
    assert!(failure.to_string().contains(&directory.to_string()), "{failure}");
}

#[test]
fn a_hole_is_made_where_there_is_data_and_leaves_the_size() {
    let scratch = Scratch::new();
    let data = pattern(4 * BLOCK);
    let inode = scratch.file("file", &data);
    let size = || fs::metadata(scratch.path("file")).unwrap().len();
    scratch.store.checkpoint().unwrap();
    scratch.store.make_hole(inode, BLOCK_BYTES, BLOCK_BYTES).unwrap();
    assert_eq!(
        holes_of(&scratch.path("file")),
        [(0, BLOCK_BYTES), (2 * BLOCK_BYTES, 4 * BLOCK_BYTES)]
    );
    assert_eq!(scratch.store.durable.written.count(), 1);
    scratch.store.checkpoint().unwrap();
    for (offset, length) in [
        (BLOCK_BYTES, BLOCK_BYTES),
        (4 * BLOCK_BYTES, 7),
        (99 * BLOCK_BYTES, u64::MAX / 4),
    ] {
        scratch.store.make_hole(inode, offset, length).unwrap();
    }
    assert_eq!(
        scratch.store.durable.written.count(),
        0,
        "there was nothing to do"
    );
    // Beyond the end.
    scratch
        .store
        .make_hole(inode, 3 * BLOCK_BYTES, i64::MAX as u64 - 3 * BLOCK_BYTES)
        .unwrap();
    assert_eq!(
        holes_of(&scratch.path("file")),
        [(0, BLOCK_BYTES), (2 * BLOCK_BYTES, 3 * BLOCK_BYTES)]
    );
    assert_eq!(size(), 4 * BLOCK_BYTES);
}

#[test]
fn the_last_hole_of_a_file_that_is_too_long_is_one_when_given_to_the_end_of_its_block() {
    let scratch = Scratch::new();
    let inode = scratch.file("file", &pattern(2 * BLOCK));
    scratch.store.make_hole(inode, 4096, BLOCK_BYTES - 4096).unwrap();
    let size = Some(5000);
    scratch.applied(&attributes(
        inode,
        Attributes {
            size,
            ..Attributes::default()
        },
    ));
    assert_eq!(holes_of(&scratch.path("file")), [(0, 4096)]);
}
