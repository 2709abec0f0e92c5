//! The record as it lies on the volume: bytes of one length, so that a volume that has none to spare takes
//! every later one in the place of the first.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | up to 504 | the fields of [`Record`] in their order, encoded as in a message; the note cut short |
//! | then | up to offset 504 | zeros |
//! | 504 | 8 | the first bytes of the BLAKE3 sum of all before |
//!
//! Small on purpose: with blocks of 1 KiB, ext4 has less than that for all attributes of an inode together.

use super::file::BadRecord;
use super::{FORMAT, Record};

/// Length of the whole.
const BYTES: usize = 512;
const SUM_BYTES: usize = 8;
const BODY_BYTES: usize = BYTES - SUM_BYTES;
/// A name of a module of 63 bytes and a full history leave room for it.
const NOTE_BYTES: usize = 64;

/// A record that does not fit the volume, which no name of a module within the limits of a configuration
/// makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record does not fit the {BODY_BYTES} bytes that it has on the volume: {0}")]
pub struct BadVolumeCopy(String);

impl Record {
    /// The bytes for the volume.
    ///
    /// # Errors
    /// [`BadVolumeCopy`] when the module's name is too long.
    pub fn to_volume(&self) -> Result<Vec<u8>, BadVolumeCopy> {
        let short = Record {
            note: self.note.clone().map(|note| cut(note, NOTE_BYTES)),
            ..self.clone()
        };
        let mut body = [0; BODY_BYTES];
        postcard::to_slice(&short, &mut body).map_err(|error| BadVolumeCopy(error.to_string()))?;
        Ok(Record::sealed(&body))
    }

    /// `body`, cut or filled up to its length, and its sum: so that a fuzzer gets past that.
    #[doc(hidden)]
    pub fn sealed(body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; BYTES];
        let (space, end) = bytes.split_at_mut(BODY_BYTES);
        let length = body.len().min(BODY_BYTES);
        space[..length].copy_from_slice(&body[..length]);
        end.copy_from_slice(&sum(space));
        bytes
    }

    /// Reads them again.
    ///
    /// # Errors
    /// As [`Record::parse`].
    pub fn from_volume(bytes: &[u8]) -> Result<Self, BadRecord> {
        let damaged = |problem: &str| BadRecord::Damaged(problem.to_owned());
        // The first byte is the format, whatever follows in later ones.
        match bytes.first() {
            None => return Err(damaged("it is empty")),
            Some(&format) if !(2..=FORMAT).contains(&u32::from(format)) => {
                return Err(match format {
                    0 => damaged("it has no format"),
                    format => BadRecord::Format(format.into()),
                });
            }
            Some(_) => {}
        }
        if bytes.len() != BYTES {
            return Err(BadRecord::Damaged(format!(
                "it has {} bytes, not {BYTES}",
                bytes.len()
            )));
        }
        let (body, end) = bytes.split_at(BODY_BYTES);
        if sum(body) != *end {
            return Err(damaged("its sum is wrong"));
        }
        let (record, _) = postcard::take_from_bytes::<Record>(body)
            .map_err(|error| BadRecord::Damaged(error.to_string()))?;
        // What format 2 lacks is read from the zeros behind it.
        let format = record.format;
        Ok(record.upgraded(format))
    }
}

/// `text` up to the end of a character within `bytes`.
pub(super) fn cut(mut text: String, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn sum(body: &[u8]) -> [u8; SUM_BYTES] {
    let mut sum = [0; SUM_BYTES];
    sum.copy_from_slice(&blake3::hash(body).as_bytes()[..SUM_BYTES]);
    sum
}
