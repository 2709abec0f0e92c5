//! Writes that a disk holds in its cache: visible to readers, lost or kept one by one when the power goes.

use crate::random::Random;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What a disk writes whole or not at all. Larger than the 512 bytes of the oldest disks: tearing below the
/// block of the file system is not what this is for.
const BLOCK_BYTES: u64 = 4096;

/// Bytes held at most. At the bound everything is written: a disk may do so whenever it likes.
const HELD_BYTES_MAX: usize = 64 << 20;

/// A disk image and the writes that have not reached it.
#[derive(Debug)]
pub struct UnflushedWrites {
    image: File,
    /// In the order of their arrival, each within one block.
    writes: Vec<(u64, Box<[u8]>)>,
    /// Block number to the places of its writes in `writes`.
    blocks: BTreeMap<u64, Vec<usize>>,
    held_bytes: usize,
}

/// What a cut did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cut {
    /// Unflushed blocks that reached the disk all the same.
    pub kept: usize,
    /// Unflushed blocks that are gone.
    pub dropped: usize,
}

impl UnflushedWrites {
    /// Nothing is held yet.
    pub fn new(image: File) -> Self {
        UnflushedWrites {
            image,
            writes: Vec::new(),
            blocks: BTreeMap::new(),
            held_bytes: 0,
        }
    }

    /// Fills `buffer` with what a reader sees at `offset`.
    ///
    /// # Errors
    /// Those of reading the image; reading past its end is one.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.image.read_exact_at(buffer, offset)?;
        let end = offset + buffer.len() as u64;
        let blocks = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        for place in self.blocks.range(blocks).flat_map(|(_, places)| places) {
            let (start, bytes) = &self.writes[*place];
            let from = offset.max(*start);
            let to = end.min(start + bytes.len() as u64);
            if from < to {
                let source = &bytes[(from - start) as usize..(to - start) as usize];
                buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        }
        Ok(())
    }

    /// Holds a write.
    ///
    /// # Errors
    /// Those of writing the image, once more is held than fits.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut start = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = (BLOCK_BYTES - start % BLOCK_BYTES) as usize;
            let (piece, after) = rest.split_at(room.min(rest.len()));
            let places = self.blocks.entry(start / BLOCK_BYTES).or_default();
            places.push(self.writes.len());
            self.writes.push((start, piece.into()));
            start += piece.len() as u64;
            rest = after;
        }
        self.held_bytes += bytes.len();
        if self.held_bytes > HELD_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    /// Puts everything held on the disk.
    ///
    /// # Errors
    /// Those of writing the image; what was not written stays held.
    pub fn flush(&mut self) -> io::Result<()> {
        for (offset, bytes) in &self.writes {
            self.image.write_all_at(bytes, *offset)?;
        }
        self.forget();
        Ok(())
    }

    /// The power goes: of what is held, some reaches the disk in whatever order, decided by `seed`.
    ///
    /// # Errors
    /// Those of writing the image.
    pub fn cut(&mut self, seed: u64) -> io::Result<Cut> {
        let mut random = Random::new(seed);
        let mut cut = Cut { kept: 0, dropped: 0 };
        for (offset, bytes) in &self.writes {
            if random.chance(0.5) {
                self.image.write_all_at(bytes, *offset)?;
                cut.kept += 1;
            } else {
                cut.dropped += 1;
            }
        }
        self.forget();
        Ok(cut)
    }

    fn forget(&mut self) {
        self.writes.clear();
        self.blocks.clear();
        self.held_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image_of(bytes: u64) -> UnflushedWrites {
        let image = tempfile::tempfile().unwrap();
        image.set_len(bytes).unwrap();
        UnflushedWrites::new(image)
    }

    fn read(writes: &UnflushedWrites, offset: u64, length: usize) -> Vec<u8> {
        let mut buffer = vec![0xee; length];
        writes.read(offset, &mut buffer).unwrap();
        buffer
    }

    #[test]
    fn a_reader_sees_the_last_write_before_and_after_the_flush() {
        let mut writes = image_of(1 << 20);
        writes.write(4000, &[1; 200]).unwrap();
        writes.write(4090, &[2; 10]).unwrap();
        for _ in 0..2 {
            let seen = read(&writes, 3999, 202);
            assert_eq!(seen[0], 0);
            assert!(seen[1..91].iter().all(|b| *b == 1));
            assert!(seen[91..101].iter().all(|b| *b == 2));
            assert!(seen[101..201].iter().all(|b| *b == 1));
            assert_eq!(seen[201], 0);
            writes.flush().unwrap();
        }
    }

    #[test]
    fn a_cut_keeps_what_was_flushed_and_a_seeded_part_of_the_rest() {
        let surviving = |seed| {
            let mut writes = image_of(1 << 20);
            writes.write(0, &[9; 4096]).unwrap();
            writes.flush().unwrap();
            for block in 1..101u64 {
                writes.write(block * 4096, &[1; 4096]).unwrap();
            }
            let cut = writes.cut(seed).unwrap();
            assert_eq!(cut.kept + cut.dropped, 100);
            assert!((20..80).contains(&cut.kept));
            assert_eq!(read(&writes, 0, 1), [9]);
            (1..101u64)
                .filter(|block| read(&writes, block * 4096, 1) == [1])
                .collect::<Vec<_>>()
        };
        assert_eq!(surviving(3), surviving(3));
        assert_ne!(surviving(3), surviving(4));
    }

    #[test]
    fn more_than_fits_is_written_early() {
        let mut writes = image_of(HELD_BYTES_MAX as u64 + 8192);
        let chunk = vec![5; 1 << 20];
        for index in 0..64u64 {
            writes.write(index << 20, &chunk).unwrap();
        }
        assert_eq!(writes.held_bytes, HELD_BYTES_MAX);
        writes.write(64 << 20, &[5; 4096]).unwrap();
        assert_eq!(writes.cut(1).unwrap(), Cut { kept: 0, dropped: 0 });
    }
}
