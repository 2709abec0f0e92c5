//! A set of extents of one file.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::Range;

/// Beyond every extent: a range that ends here reaches to the end of the file, however long that is.
pub const TO_THE_END: u64 = u64::MAX;

/// Extents of a file, by index, as ranges that neither overlap nor touch. What an extent's size is, is not known here.
///
/// Most files have a few, and there may be a million files; one file may have a million.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Extents {
    /// Start and end, ascending.
    few: Vec<(u64, u64)>,
    /// The same when there are more than [`FEW`]; then `few` is empty.
    many: Option<BTreeMap<u64, u64>>,
}

/// Ranges that are kept in one piece of memory.
const FEW: usize = 64;

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
        self.few.is_empty() && self.many.is_none()
    }

    /// Adds a range. False when all of it was there already.
    pub fn insert(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() || self.contains(&range) {
            return false;
        }
        match &mut self.many {
            Some(many) => insert_many(many, range),
            None => {
                insert_few(&mut self.few, range);
                if self.few.len() > FEW {
                    self.many = Some(self.few.drain(..).collect());
                    self.few.shrink_to_fit();
                }
            }
        }
        true
    }

    /// True when all of it is there.
    pub fn contains(&self, range: &Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        let before = match &self.many {
            Some(many) => many.range(..=range.start).next_back().map(|(_, end)| *end),
            None => {
                let after = self.few.partition_point(|(start, _)| *start <= range.start);
                after.checked_sub(1).map(|index| self.few[index].1)
            }
        };
        before.is_some_and(|end| end >= range.end)
    }

    /// Adds all of the other set.
    pub fn unite(&mut self, other: &Extents) {
        for range in other.iter() {
            self.insert(range);
        }
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        let many = self.many.iter().flat_map(|many| many.iter());
        let few = self.few.iter().map(|(start, end)| (start, end));
        few.chain(many).map(|(start, end)| *start..*end)
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

/// Those that begin within the range or just behind it become part of it.
fn insert_many(many: &mut BTreeMap<u64, u64>, range: Range<u64>) {
    let (mut start, mut end) = (range.start, range.end);
    if let Some((before, reaches)) = many.range(..=start).next_back()
        && *reaches >= start
    {
        start = *before;
        end = end.max(*reaches);
    }
    while let Some((next, reaches)) = many.range(start..=end).next_back() {
        let (next, reaches) = (*next, *reaches);
        end = end.max(reaches);
        many.remove(&next);
    }
    many.insert(start, end);
}

/// As [`insert_many`].
fn insert_few(few: &mut Vec<(u64, u64)>, range: Range<u64>) {
    let first = few.partition_point(|(_, end)| *end < range.start);
    let last = few.partition_point(|(start, _)| *start <= range.end);
    let joined = &few[first..last];
    let start = joined
        .first()
        .map_or(range.start, |(start, _)| range.start.min(*start));
    let end = joined.last().map_or(range.end, |(_, end)| range.end.max(*end));
    few.splice(first..last, [(start, end)]);
}

/// However they are kept.
impl PartialEq for Extents {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Extents {}

impl TryFrom<Vec<(u64, u64)>> for Extents {
    type Error = BadExtents;
    fn try_from(ranges: Vec<(u64, u64)>) -> Result<Self, BadExtents> {
        let ordered = ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if !ordered || ranges.iter().any(|(start, end)| start >= end) {
            return Err(BadExtents);
        }
        if ranges.len() <= FEW {
            return Ok(Extents {
                few: ranges,
                many: None,
            });
        }
        Ok(Extents {
            few: Vec::new(),
            many: Some(ranges.into_iter().collect()),
        })
    }
}

impl From<Extents> for Vec<(u64, u64)> {
    fn from(extents: Extents) -> Self {
        extents.iter().map(|range| (range.start, range.end)).collect()
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
        fn it_is_a_set(steps in prop::collection::vec((0u64..400, 1u64..6), 0..200)) {
            let (mut extents, mut model) = (Extents::default(), BTreeSet::new());
            for (start, length) in steps {
                let range = start..start + length;
                let grew = range.clone().any(|index| !model.contains(&index));
                prop_assert_eq!(extents.insert(range.clone()), grew);
                model.extend(range.clone());
                prop_assert!(extents.contains(&range));
                let wider = range.start..range.end + 1;
                prop_assert_eq!(extents.contains(&wider), model.contains(&range.end));
                let all: BTreeSet<u64> = extents.iter().flatten().collect();
                prop_assert_eq!(&all, &model);
                let ranges: Vec<(u64, u64)> = extents.clone().into();
                let again = Extents::try_from(ranges).unwrap();
                prop_assert!(again.iter().eq(extents.iter()));
            }
        }
    }
}
