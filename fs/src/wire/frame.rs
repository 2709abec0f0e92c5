//! Bytes of a replication connection: 8 fixed bytes each way, then frames. `docs/wire.md` has the tables.
//!
//! No I/O: [`Encoded`] is what to send, [`Decoder`] takes what arrived. Decoding is total: any bytes give a
//! message within its [`super::limits`], "incomplete", or an error, and nothing is allocated for bytes that
//! have not arrived. The payload of a write is not copied when it is encoded; when it is decoded, only if its
//! frame arrived in several pieces (once, into one).

use super::limits::Limits;
use super::message::{ToPrimary, ToSecondary, VERSION};
use crate::operation::{FileHandle, InodeId, Number, Operation, Timestamp, WRITE_BYTES_MAX};
use bytes::{Buf, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::marker::PhantomData;

/// First bytes of a stream.
const MAGIC: [u8; 4] = *b"SKFS";
/// Length of what precedes the first frame.
pub const PREAMBLE_BYTES: usize = 8;
/// Bytes before a frame's body: its length.
const LENGTH_BYTES: usize = 4;
/// Longest body of a frame to the secondary: a full write and room for its head, and a hello with every list
/// full, about 2.5 MB.
pub const TO_SECONDARY_BYTES_MAX: usize = WRITE_BYTES_MAX + (2 << 20);
/// Longest body of a frame to the primary: a welcome with every list full, about 25 MB, and some room. Only a
/// peer that has proved itself can send one, and memory is taken for what has arrived only.
pub const TO_PRIMARY_BYTES_MAX: usize = 32 << 20;

/// The body is one byte of this and a postcard message.
pub(super) const KIND_MESSAGE: u8 = 0;
/// The body is one byte of this, a postcard [`WriteHead`] and the data, which ends with the frame.
const KIND_WRITE: u8 = 1;

/// Why bytes from the peer, or a message to it, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The first bytes are not Sidekick's.
    #[error("the peer does not speak Sidekick's replication protocol: its first bytes are \"{}\"", .0.escape_ascii())]
    NotSidekick([u8; 4]),
    /// Another version of the protocol.
    #[error(
        "the peer speaks version {theirs} of the replication protocol, this node version {ours}: install the same skfs on both"
    )]
    Version {
        /// This node's, [`VERSION`].
        ours: u16,
        /// The peer's.
        theirs: u16,
    },
    /// A field of the preamble that this version sends as 0.
    #[error("the reserved field of the peer's first bytes is {0}, not 0")]
    Reserved(u16),
    /// A frame is announced, or would be sent, that is longer than its direction allows.
    #[error("a frame has {length} bytes, more than {max}")]
    FrameTooLong {
        /// Bytes in the body.
        length: usize,
        /// The most there may be.
        max: usize,
    },
    /// The body is not a message.
    #[error("a frame of {length} bytes is not a message: {reason}")]
    Malformed {
        /// Bytes in the body.
        length: usize,
        /// What is wrong.
        reason: String,
    },
    /// A field holds what it must not.
    #[error("{what} {problem}")]
    Limit {
        /// The field.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame, {have} bytes after the last whole one")]
    Truncated {
        /// Bytes left over.
        have: usize,
    },
}

/// The bytes that begin a stream, each way.
pub fn preamble() -> [u8; PREAMBLE_BYTES] {
    preamble_of(VERSION)
}

fn preamble_of(version: u16) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&version.to_be_bytes());
    bytes
}

/// Checks the peer's first bytes, before anything else of it is decoded.
pub fn check_preamble(bytes: [u8; PREAMBLE_BYTES]) -> Result<(), WireError> {
    let [m0, m1, m2, m3, v0, v1, r0, r1] = bytes;
    let magic = [m0, m1, m2, m3];
    if magic != MAGIC {
        return Err(WireError::NotSidekick(magic));
    }
    let theirs = u16::from_be_bytes([v0, v1]);
    if theirs != VERSION {
        return Err(WireError::Version {
            ours: VERSION,
            theirs,
        });
    }
    match u16::from_be_bytes([r0, r1]) {
        0 => Ok(()),
        reserved => Err(WireError::Reserved(reserved)),
    }
}

/// One frame of an `M` to send: `head`, then `payload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded<M> {
    /// Length, kind and the message, all of it but the payload.
    pub head: Bytes,
    /// The data of a write: the very `Bytes` of the operation.
    pub payload: Option<Bytes>,
    message: PhantomData<fn() -> M>,
}

impl<M> Encoded<M> {
    /// Bytes on the wire.
    pub fn length(&self) -> usize {
        self.head.len() + self.payload.as_ref().map_or(0, Bytes::len)
    }

    /// The chunks in the order in which they are sent.
    pub fn into_chunks(self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.head).chain(self.payload)
    }
}

/// A type of message: [`ToSecondary`] or [`ToPrimary`].
pub trait Message: Limits + Sized + Send + 'static {
    /// Longest body of its frames.
    const BYTES_MAX: usize;

    /// The frame of this message.
    /// # Errors
    /// [`WireError::Limit`] or [`WireError::FrameTooLong`], so that nothing is sent that the peer would refuse.
    fn encode(&self) -> Result<Encoded<Self>, WireError>;

    /// The message in a frame's body.
    fn decode(body: Bytes) -> Result<Self, WireError>;
}

impl Message for ToSecondary {
    const BYTES_MAX: usize = TO_SECONDARY_BYTES_MAX;

    fn encode(&self) -> Result<Encoded<Self>, WireError> {
        self.check()?;
        match self {
            ToSecondary::Operation {
                number,
                confirmed,
                introduced,
                operation:
                    Operation::Write {
                        inode,
                        offset,
                        data,
                        time,
                        mode,
                    },
            } => {
                let head = WriteHead {
                    number: *number,
                    confirmed: *confirmed,
                    introduced,
                    inode: *inode,
                    offset: *offset,
                    time: *time,
                    mode: *mode,
                };
                frame(KIND_WRITE, &head, Some(data.clone()), Self::BYTES_MAX)
            }
            other => frame(KIND_MESSAGE, other, None, Self::BYTES_MAX),
        }
    }

    fn decode(body: Bytes) -> Result<Self, WireError> {
        let message = match body.first() {
            Some(&KIND_WRITE) => {
                let (head, data) = take::<WriteHead<Vec<(InodeId, FileHandle)>>>(&body)?;
                let operation = Operation::Write {
                    inode: head.inode,
                    offset: head.offset,
                    data,
                    time: head.time,
                    mode: head.mode,
                };
                ToSecondary::Operation {
                    number: head.number,
                    confirmed: head.confirmed,
                    introduced: head.introduced,
                    operation,
                }
            }
            _ => {
                let message = whole::<ToSecondary>(&body)?;
                // Each message has one form only.
                if matches!(
                    &message,
                    ToSecondary::Operation {
                        operation: Operation::Write { .. },
                        ..
                    }
                ) {
                    return Err(malformed(&body, "a write in the form of another message"));
                }
                message
            }
        };
        message.check()?;
        Ok(message)
    }
}

impl Message for ToPrimary {
    const BYTES_MAX: usize = TO_PRIMARY_BYTES_MAX;

    fn encode(&self) -> Result<Encoded<Self>, WireError> {
        self.check()?;
        frame(KIND_MESSAGE, self, None, Self::BYTES_MAX)
    }

    fn decode(body: Bytes) -> Result<Self, WireError> {
        let message = whole::<ToPrimary>(&body)?;
        message.check()?;
        Ok(message)
    }
}

/// All of a [`ToSecondary::Operation`] with a write but the data. `I` is the list of introduced handles,
/// borrowed to encode, owned when decoded.
#[derive(Serialize, Deserialize)]
struct WriteHead<I> {
    number: Number,
    confirmed: Number,
    introduced: I,
    inode: InodeId,
    offset: u64,
    time: Option<Timestamp>,
    mode: Option<u32>,
}

pub(super) fn frame<T: Serialize, M>(
    kind: u8,
    head: &T,
    payload: Option<Bytes>,
    max: usize,
) -> Result<Encoded<M>, WireError> {
    // Most heads are small: an operation's numbers and a name.
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&[0; LENGTH_BYTES]);
    bytes.push(kind);
    let mut bytes = postcard::to_extend(head, bytes).map_err(|error| WireError::Malformed {
        length: 0,
        reason: error.to_string(),
    })?;
    let length = bytes.len() - LENGTH_BYTES + payload.as_ref().map_or(0, Bytes::len);
    let announced = u32::try_from(length).ok().filter(|_| length <= max);
    let announced = announced.ok_or(WireError::FrameTooLong { length, max })?;
    bytes[..LENGTH_BYTES].copy_from_slice(&announced.to_be_bytes());
    Ok(Encoded {
        head: bytes.into(),
        payload,
        message: PhantomData,
    })
}

pub(super) fn malformed(body: &Bytes, reason: impl ToString) -> WireError {
    WireError::Malformed {
        length: body.len(),
        reason: reason.to_string(),
    }
}

/// The value after the kind and, as a slice of `body`, what follows it.
pub(super) fn take<T: DeserializeOwned>(body: &Bytes) -> Result<(T, Bytes), WireError> {
    let after_kind = body.get(1..).ok_or_else(|| malformed(body, "it is empty"))?;
    let (value, rest) = postcard::take_from_bytes(after_kind).map_err(|error| malformed(body, error))?;
    Ok((value, body.slice(body.len() - rest.len()..)))
}

/// The value after the kind, which must be [`KIND_MESSAGE`] and reach to the end of `body`.
pub(super) fn whole<T: DeserializeOwned>(body: &Bytes) -> Result<T, WireError> {
    match body.first() {
        Some(&KIND_MESSAGE) => {}
        Some(kind) => return Err(malformed(body, format!("unknown kind {kind}"))),
        None => return Err(malformed(body, "it is empty")),
    }
    let (value, rest) = take(body)?;
    if rest.is_empty() {
        return Ok(value);
    }
    Err(malformed(
        body,
        format!("{} bytes follow the message", rest.len()),
    ))
}

/// Cuts what arrives on a stream, after the preamble, into messages.
///
/// It holds at most one incomplete frame and what was pushed last: take all messages before pushing more.
#[derive(Debug)]
pub struct Decoder<M> {
    chunks: VecDeque<Bytes>,
    buffered: usize,
    /// Length of the frame whose first bytes are taken, once it is known and checked.
    body: Option<usize>,
    messages: PhantomData<fn() -> M>,
}

impl<M: Message> Default for Decoder<M> {
    fn default() -> Self {
        Decoder {
            chunks: VecDeque::new(),
            buffered: 0,
            body: None,
            messages: PhantomData,
        }
    }
}

impl<M: Message> Decoder<M> {
    /// Adds the next bytes of the stream.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.buffered += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// The next message; `None` while its frame is incomplete. After an error the stream is of no more use.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator's None is its end, here more may follow"
    )]
    pub fn next(&mut self) -> Result<Option<M>, WireError> {
        let length = match self.body {
            Some(length) => length,
            None if self.buffered < LENGTH_BYTES => return Ok(None),
            None => {
                let mut bytes = [0; LENGTH_BYTES];
                self.take(LENGTH_BYTES).copy_to_slice(&mut bytes);
                let length = usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX);
                if length > M::BYTES_MAX {
                    return Err(WireError::FrameTooLong {
                        length,
                        max: M::BYTES_MAX,
                    });
                }
                self.body = Some(length);
                length
            }
        };
        if self.buffered < length {
            return Ok(None);
        }
        self.body = None;
        M::decode(self.take(length)).map(Some)
    }

    /// To be called at the end of the stream, after the last message.
    /// # Errors
    /// [`WireError::Truncated`] when a frame is incomplete.
    pub fn finish(&self) -> Result<(), WireError> {
        let have = self.buffered + if self.body.is_some() { LENGTH_BYTES } else { 0 };
        if have == 0 {
            Ok(())
        } else {
            Err(WireError::Truncated { have })
        }
    }

    /// The next `length` bytes, of which at least as many are buffered: a slice where they came in one chunk.
    fn take(&mut self, length: usize) -> Bytes {
        self.buffered -= length;
        match self.chunks.front_mut() {
            Some(first) if first.len() > length => return first.split_to(length),
            Some(first) if first.len() == length => return self.chunks.pop_front().unwrap_or_default(),
            _ => {}
        }
        let mut gathered = BytesMut::with_capacity(length);
        while gathered.len() < length {
            let Some(first) = self.chunks.front_mut() else {
                break;
            };
            let part = first.split_to(first.len().min(length - gathered.len()));
            gathered.extend_from_slice(&part);
            if first.is_empty() {
                self.chunks.pop_front();
            }
        }
        gathered.freeze()
    }
}

#[cfg(test)]
mod tests;
