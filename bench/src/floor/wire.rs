//! What the floor's two programs say to each other: one request, one answer, on a connection of its own.
//!
//! A request is 28 bytes, little-endian, and the data of a write; an answer is an errno, 0 for none.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | 1 write, 2 fsync |
//! | 4 | 8 | inode |
//! | 12 | 8 | offset in the file |
//! | 20 | 8 | length of the data that follows |

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;

const HEADER_BYTES: usize = 28;
/// One FUSE write (`max_write`).
pub const DATA_BYTES_MAX: usize = 1 << 20;

/// What is asked of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Write the data that follows.
    Write,
    /// Make the file durable.
    Fsync,
}

/// A request without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What is asked.
    pub kind: Kind,
    /// Of which file.
    pub inode: u64,
    /// Where in it.
    pub offset: u64,
    /// How many bytes follow.
    pub length: usize,
}

impl Header {
    fn encode(self) -> [u8; HEADER_BYTES] {
        let kind: u32 = match self.kind {
            Kind::Write => 1,
            Kind::Fsync => 2,
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.inode.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.offset.to_le_bytes());
        bytes[20..].copy_from_slice(&(self.length as u64).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> io::Result<Self> {
        let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let kind = match bytes[..4] {
            [1, 0, 0, 0] => Kind::Write,
            [2, 0, 0, 0] => Kind::Fsync,
            _ => return Err(bad("neither a write nor an fsync")),
        };
        let length = number(20);
        if length > DATA_BYTES_MAX as u64 {
            return Err(bad("more data than a write can have"));
        }
        Ok(Header {
            kind,
            inode: number(4),
            offset: number(12),
            length: length as usize,
        })
    }
}

/// Sends a request in one call, if the socket takes it.
///
/// # Errors
/// When the connection is broken.
pub fn send(stream: &mut TcpStream, header: Header, data: &[u8]) -> io::Result<()> {
    let head = header.encode();
    let sent = stream.write_vectored(&[IoSlice::new(&head), IoSlice::new(data)])?;
    if sent < HEADER_BYTES {
        stream.write_all(&head[sent..])?;
        return stream.write_all(data);
    }
    stream.write_all(&data[sent - HEADER_BYTES..])
}

/// Takes a request; its data is in `buffer`. `None` when the other side has closed.
///
/// # Errors
/// When the connection is broken or what comes is no request.
pub fn receive(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Header>> {
    let mut head = [0; HEADER_BYTES];
    match stream.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let header = Header::decode(&head)?;
    if buffer.len() < header.length {
        buffer.resize(header.length, 0);
    }
    stream.read_exact(&mut buffer[..header.length])?;
    Ok(Some(header))
}

/// Answers a request.
///
/// # Errors
/// When the connection is broken.
pub fn answer(stream: &mut TcpStream, errno: i32) -> io::Result<()> {
    stream.write_all(&errno.to_le_bytes())
}

/// Waits for the answer to the request sent last.
///
/// # Errors
/// The peer's, or that of a broken connection.
pub fn wait(stream: &mut TcpStream) -> io::Result<()> {
    let mut errno = [0; 4];
    stream.read_exact(&mut errno)?;
    match i32::from_le_bytes(errno) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back_and_a_bad_one_is_refused() {
        let header = Header {
            kind: Kind::Write,
            inode: 7,
            offset: 1 << 40,
            length: 4096,
        };
        assert_eq!(Header::decode(&header.encode()).unwrap(), header);
        let longer = Header {
            length: DATA_BYTES_MAX + 1,
            ..header
        };
        assert!(Header::decode(&longer.encode()).is_err());
        assert!(Header::decode(&[9; HEADER_BYTES]).is_err());
    }
}
