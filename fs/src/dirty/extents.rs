//! A set of extents of one file.

/// Ranges `[start, end)` of extents, in order, none of them empty and no two of them touching. An end of `u64::MAX`
/// is the end of the file, however long it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(Vec<(u64, u64)>);

impl Extents {
    /// Adds the extents from `start` to `end`, which is above it.
    pub fn insert(&mut self, mut start: u64, mut end: u64) {
        let first = self.0.partition_point(|(_, other)| *other < start);
        let last = self.0.partition_point(|(other, _)| *other <= end);
        if first < last {
            start = start.min(self.0[first].0);
            end = end.max(self.0[last - 1].1);
        }
        self.0.splice(first..last, [(start, end)]);
    }

    /// The ranges in their order.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }
}
