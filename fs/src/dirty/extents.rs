//! A set of extents of one file.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::Range;

/// Beyond every extent: a range that ends here reaches to the end of the file, however long that is.
pub const TO_THE_END: u64 = u64::MAX;

/// Extents of a file, by index, as ranges that neither overlap nor touch. What an extent's size is, is not known here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Extents {
    /// Start and end.
    ranges: BTreeMap<u64, u64>,
}

/// Ranges that are empty, overlap, or do not ascend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ranges of a file's extents are not in order")]
pub struct BadExtents;

impl Extents {
    /// The extents that hold any of these bytes.
    pub fn of_bytes(offset: u64, length: u64, extent_bytes: NonZeroU64) -> Range<u64> {
        if length == 0 {
            return 0..0;
        }
        let last = offset.saturating_add(length - 1);
        offset / extent_bytes..(last / extent_bytes).saturating_add(1)
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ranges there are.
    pub fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// Adds a range. False when all of it was there already.
    pub fn insert(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() {
            return false;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((before, reaches)) = self.ranges.range(..=start).next_back()
            && *reaches >= start
        {
            if *reaches >= end {
                return false;
            }
            start = *before;
        }
        // Those that begin within it or just behind it become part of it.
        while let Some((next, reaches)) = self.ranges.range(start..=end).next_back() {
            let (next, reaches) = (*next, *reaches);
            end = end.max(reaches);
            self.ranges.remove(&next);
        }
        self.ranges.insert(start, end);
        true
    }

    /// True when all of it is there.
    pub fn contains(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || self
                .ranges
                .range(..=range.start)
                .next_back()
                .is_some_and(|(_, end)| *end >= range.end)
    }

    /// Adds all of the other set.
    pub fn unite(&mut self, other: &Extents) {
        for (start, end) in &other.ranges {
            self.insert(*start..*end);
        }
    }

    /// Takes a range away.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touched: Vec<(u64, u64)> = self
            .ranges
            .range(..range.end)
            .rev()
            .take_while(|(_, end)| **end > range.start)
            .map(|(start, end)| (*start, *end))
            .collect();
        for (start, end) in touched {
            self.ranges.remove(&start);
            if start < range.start {
                self.ranges.insert(start, range.start);
            }
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
        }
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    /// The bytes in a file of `size` bytes, ascending.
    pub fn byte_ranges(&self, extent_bytes: NonZeroU64, size: u64) -> impl Iterator<Item = Range<u64>> {
        let bytes = extent_bytes.get();
        self.iter()
            .map(move |range| {
                let start = range.start.saturating_mul(bytes).min(size);
                start..range.end.saturating_mul(bytes).min(size)
            })
            .filter(|range| !range.is_empty())
    }

    /// How many bytes that are at most; what reaches to the end counts as one extent.
    pub fn bytes(&self, extent_bytes: NonZeroU64) -> u64 {
        self.iter()
            .map(|range| match range.end {
                TO_THE_END => extent_bytes.get(),
                end => (end - range.start).saturating_mul(extent_bytes.get()),
            })
            .fold(0, u64::saturating_add)
    }
}

impl TryFrom<Vec<(u64, u64)>> for Extents {
    type Error = BadExtents;
    fn try_from(ranges: Vec<(u64, u64)>) -> Result<Self, BadExtents> {
        let ordered = ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if !ordered || ranges.iter().any(|(start, end)| start >= end) {
            return Err(BadExtents);
        }
        Ok(Extents {
            ranges: ranges.into_iter().collect(),
        })
    }
}

impl From<Extents> for Vec<(u64, u64)> {
    fn from(extents: Extents) -> Self {
        extents.ranges.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_bytes_of_a_file_are_cut_at_its_end() {
        let bytes = NonZeroU64::new(10).unwrap();
        let mut extents = Extents::default();
        extents.insert(Extents::of_bytes(19, 2, bytes));
        extents.insert(5..TO_THE_END);
        let ranges: Vec<_> = extents.byte_ranges(bytes, 62).collect();
        assert_eq!(ranges, [10..30, 50..62]);
        assert_eq!(extents.byte_ranges(bytes, 10).count(), 0);
        assert_eq!(extents.bytes(bytes), 30);
    }

    #[test]
    fn what_was_written_down_is_read_again_and_nonsense_is_refused() {
        let mut extents = Extents::default();
        extents.insert(1..3);
        extents.insert(7..9);
        let text = serde_json::to_string(&extents).unwrap();
        assert_eq!(serde_json::from_str::<Extents>(&text).unwrap(), extents);
        for bad in ["[[3,3]]", "[[1,4],[4,6]]", "[[5,6],[1,2]]"] {
            assert!(serde_json::from_str::<Extents>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..12), 0..60)) {
            let (mut extents, mut model) = (Extents::default(), BTreeSet::new());
            for (add, start, length) in steps {
                let range = start..start + length;
                if add {
                    let grew = range.clone().any(|index| !model.contains(&index));
                    prop_assert_eq!(extents.insert(range.clone()), grew);
                    model.extend(range.clone());
                } else {
                    extents.remove(range.clone());
                    range.clone().for_each(|index| { model.remove(&index); });
                }
                prop_assert_eq!(extents.contains(&range), range.clone().all(|index| model.contains(&index)));
                let all: BTreeSet<u64> = extents.iter().flatten().collect();
                prop_assert_eq!(&all, &model);
                let ranges: Vec<(u64, u64)> = extents.clone().into();
                prop_assert!(Extents::try_from(ranges).is_ok());
            }
        }
    }
}
