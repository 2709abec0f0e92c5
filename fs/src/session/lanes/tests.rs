use super::Lanes;
use crate::operation::{InodeId, Name, Operation, Timestamp};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TIME: Timestamp = Timestamp {
    seconds: 0,
    nanoseconds: 0,
};

fn write(inode: u64) -> Operation {
    Operation::Write {
        inode: InodeId(inode),
        offset: 0,
        data: Bytes::from_static(b"x"),
        time: None,
        mode: None,
    }
}

fn link(inode: u64, parent: u64) -> Operation {
    Operation::Link {
        inode: InodeId(inode),
        parent: InodeId(parent),
        name: Name::new(b"n").unwrap(),
        time: TIME,
    }
}

fn copy(source: u64, target: u64) -> Operation {
    Operation::CopyRange {
        source: InodeId(source),
        source_offset: 0,
        target: InodeId(target),
        target_offset: 0,
        length: 1,
        time: None,
        set_mode: None,
    }
}

fn sync(inode: u64) -> Operation {
    Operation::Sync {
        inode: InodeId(inode),
        data_only: false,
    }
}

/// Everything unfinished, looked through from the start each time.
#[derive(Default)]
struct Naive {
    unfinished: BTreeMap<u32, (Operation, bool)>,
}

impl Naive {
    fn may_run(&self, key: u32) -> bool {
        let (operation, open) = &self.unfinished[&key];
        let touched = operation.touches();
        let in_the_way = |earlier: &Operation| match operation {
            Operation::Checkpoint => true,
            _ if earlier.is_sync() => false,
            _ => {
                let names = operation.is_name_operation() || operation.is_sync();
                (names && earlier.is_name_operation())
                    || earlier.touches().iter().any(|inode| touched.contains(inode))
            }
        };
        *open
            && !self
                .unfinished
                .range(..key)
                .any(|(_, (earlier, _))| in_the_way(earlier))
    }
}

fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (1u64..6).prop_map(write),
        2 => (1u64..6, 1u64..6).prop_map(|(inode, parent)| link(inode, parent)),
        2 => (1u64..6, 1u64..6).prop_map(|(source, target)| copy(source, target)),
        2 => (1u64..6).prop_map(sync),
        1 => Just(Operation::Checkpoint),
    ]
}

proptest! {
    #[test]
    fn an_operation_may_run_exactly_when_nothing_earlier_is_in_its_way(
        steps in prop::collection::vec((operations(), any::<bool>(), any::<prop::sample::Index>(), 0u8..3), 1..80)
    ) {
        let mut lanes = Lanes::<u32>::default();
        let mut naive = Naive::default();
        let mut running = Vec::new();
        for (key, (operation, gated, choice, kind)) in (0u32..).zip(steps) {
            match kind {
                0 | 1 => {
                    let ready = lanes.admit(key, &operation, u32::from(gated));
                    naive.unfinished.insert(key, (operation, !gated));
                    prop_assert_eq!(ready, naive.may_run(key));
                    running.extend(ready.then_some(key));
                }
                _ => {
                    let closed: Vec<u32> =
                        naive.unfinished.iter().filter(|(_, (_, open))| !open).map(|(key, _)| *key).collect();
                    if gated && !closed.is_empty() {
                        let key = *choice.get(&closed);
                        naive.unfinished.get_mut(&key).unwrap().1 = true;
                        let ready = lanes.open(key);
                        prop_assert_eq!(ready, naive.may_run(key));
                        running.extend(ready.then_some(key));
                    } else if !running.is_empty() {
                        let key = running.remove(choice.index(running.len()));
                        let before: Vec<u32> =
                            naive.unfinished.keys().copied().filter(|other| naive.may_run(*other)).collect();
                        naive.unfinished.remove(&key);
                        let mut expected: Vec<u32> =
                            naive.unfinished.keys().copied().filter(|other| naive.may_run(*other)).collect();
                        expected.retain(|other| !before.contains(other));
                        let mut ready = Vec::new();
                        prop_assert!(lanes.finish(key, &mut ready));
                        ready.sort_unstable();
                        prop_assert_eq!(&ready, &expected);
                        running.extend(ready);
                    }
                }
            }
            prop_assert_eq!(lanes.len(), naive.unfinished.len());
        }
    }
}

#[test]
fn what_still_waits_cannot_be_finished() {
    let mut lanes = Lanes::default();
    let mut ready = Vec::new();
    assert!(lanes.admit(1, &write(1), 0));
    assert!(!lanes.admit(2, &write(1), 0));
    assert!(!lanes.finish(2, &mut ready));
    assert!(!lanes.finish(3, &mut ready));
    assert_eq!(lanes.len(), 2);
    assert!(lanes.finish(1, &mut ready));
    assert_eq!(ready, [2]);
}

#[test]
fn finished_operations_leave_nothing_behind() {
    let mut lanes = Lanes::default();
    let mut ready = Vec::new();
    for key in 0..1000 {
        assert!(lanes.admit(key, &write(key), 0));
        assert!(lanes.finish(key, &mut ready));
    }
    assert!(lanes.is_empty() && lanes.last_of.is_empty() && lanes.last_name.is_none());
}
