//! Records of the durable map as bytes: `docs/wire.md`, "The dirty map". No I/O.
//!
//! Decoding is total: any bytes are records within their limits, or a [`BadValue`].

use crate::dirty::marks::Place;
use crate::operation::{FileHandle, InodeId, Name};
use crate::wire::frame::WireError;
use crate::wire::limits::{DIRECTORIES_MAX, check_handle, check_inode};
use serde::{Deserialize, Serialize};

/// Bytes of a region: what one record marks ahead of the writes into it.
pub const REGION_BYTES: u64 = 16 << 20;
/// Most ranges in one [`SavedRecord::Extents`]; a file with more has several.
pub const RANGES_MAX: usize = 256;
/// Regions are counted below this: no offset in a file is above `i64::MAX` (`loff_t`).
const REGIONS_MAX: u64 = (i64::MAX as u64) / REGION_BYTES + 1;

/// One thing that the durable map says. The order of the variants is that of the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedRecord {
    /// Introduces an inode. Precedes every other record that has it as `inode`; a second one adds what the first did not know.
    Node {
        /// The inode, as the process that wrote the map called it.
        inode: InodeId,
        /// Its replicated directory, counted from 0 in the order of the configuration.
        root: u32,
        /// This node's handle.
        handle: FileHandle,
        /// The peer's handle, where it is known.
        peer_handle: Option<FileHandle>,
        /// Where the peer has it for certain.
        place: Option<Place>,
    },
    /// A region of the file may differ: bytes `[index, index + 1) * REGION_BYTES`.
    Region {
        /// The file.
        inode: InodeId,
        /// Which region.
        index: u64,
    },
    /// The file may differ from the beginning of a region to its end, however long it is.
    FromRegion {
        /// The file.
        inode: InodeId,
        /// The first region.
        index: u64,
    },
    /// Owner, mode, times or extended attributes may differ.
    Attributes {
        /// The inode.
        inode: InodeId,
    },
    /// Names may have been added that the peer does not have: its listing is to be compared by name.
    Additions {
        /// The directory.
        directory: InodeId,
    },
    /// The name may lead to something else on the peer, or to nothing.
    Name {
        /// The directory.
        directory: InodeId,
        /// The name in it.
        name: Name,
    },
    /// Extents of the file may differ: ranges `[start, end)` in the unit that the map's head gives, `u64::MAX` as an
    /// `end` meaning the end of the file.
    Extents {
        /// The file.
        inode: InodeId,
        /// 1 to [`RANGES_MAX`] ranges, none of them empty.
        ranges: Vec<(u64, u64)>,
    },
    /// All of it is to be compared or sent.
    Whole {
        /// The inode.
        inode: InodeId,
    },
    /// The peer never had it.
    Fresh {
        /// The inode.
        inode: InodeId,
    },
    /// What the peer calls an inode. Of one that no record introduced it is not kept: nothing asks for it.
    PeerHandle {
        /// The inode.
        inode: InodeId,
        /// The peer's handle.
        handle: FileHandle,
    },
    /// Something was changed without the peer. A map without it says that nothing was.
    Changed,
}

/// Why bytes of the durable map say nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// They are not a record.
    #[error("some bytes are not a record: {0}")]
    Encoding(#[from] postcard::Error),
    /// A field is outside its limits.
    #[error("a record is outside its limits: {0}")]
    Limit(#[from] WireError),
    /// A count, an index or a range is outside its limits.
    #[error("a record of {inode} is outside its limits: {what}")]
    Range {
        /// Of which inode.
        inode: InodeId,
        /// What is wrong.
        what: &'static str,
    },
    /// A record of an inode that none introduced.
    #[error("{0} is spoken of and was not introduced")]
    NotIntroduced(InodeId),
    /// A table does not hold what it must.
    #[error("{0}")]
    Table(&'static str),
}

impl SavedRecord {
    /// Appends the bytes of this record to `bytes`.
    ///
    /// # Errors
    /// [`BadValue`] when a field is outside its limits, as reading it would be refused.
    pub fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), BadValue> {
        self.check()?;
        *bytes = postcard::to_extend(self, std::mem::take(bytes))?;
        Ok(())
    }

    /// The first record of `bytes`, and the bytes after it.
    ///
    /// # Errors
    /// [`BadValue`] when they begin with no record within its limits.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), BadValue> {
        let (record, rest) = postcard::take_from_bytes::<SavedRecord>(bytes)?;
        record.check()?;
        Ok((record, rest))
    }

    fn check(&self) -> Result<(), BadValue> {
        let region = |inode: InodeId, index: u64| {
            check_inode(inode)?;
            in_range(inode, index < REGIONS_MAX, "no file has such a region")
        };
        match self {
            SavedRecord::Changed => Ok(()),
            SavedRecord::Node {
                inode,
                root,
                handle,
                peer_handle,
                place,
            } => {
                check_inode(*inode)?;
                check_handle(handle)?;
                peer_handle.iter().try_for_each(check_handle)?;
                place.iter().try_for_each(|place| check_inode(place.parent))?;
                in_range(
                    *inode,
                    (*root as usize) < DIRECTORIES_MAX,
                    "there is no such directory",
                )
            }
            SavedRecord::Region { inode, index } => region(*inode, *index),
            SavedRecord::FromRegion { inode, index } => region(*inode, *index),
            SavedRecord::Attributes { inode } => Ok(check_inode(*inode)?),
            SavedRecord::Additions { directory } => Ok(check_inode(*directory)?),
            SavedRecord::Name { directory, name: _ } => Ok(check_inode(*directory)?),
            SavedRecord::Extents { inode, ranges } => {
                check_inode(*inode)?;
                in_range(
                    *inode,
                    (1..=RANGES_MAX).contains(&ranges.len()),
                    "its number of ranges",
                )?;
                let full = ranges.iter().all(|(start, end)| start < end);
                in_range(*inode, full, "a range ends before it begins")
            }
            SavedRecord::Whole { inode } => Ok(check_inode(*inode)?),
            SavedRecord::Fresh { inode } => Ok(check_inode(*inode)?),
            SavedRecord::PeerHandle { inode, handle } => {
                check_inode(*inode)?;
                Ok(check_handle(handle)?)
            }
        }
    }
}

/// The records of one value of the table, up to the first that is none.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
}

impl<'a> Records<'a> {
    /// Of the value `bytes`.
    pub fn of(bytes: &'a [u8]) -> Self {
        Records { bytes }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<SavedRecord, BadValue>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        match SavedRecord::decode(std::mem::take(&mut self.bytes)) {
            Ok((record, rest)) => {
                self.bytes = rest;
                Some(Ok(record))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

fn in_range(inode: InodeId, holds: bool, what: &'static str) -> Result<(), BadValue> {
    if holds {
        return Ok(());
    }
    Err(BadValue::Range { inode, what })
}
