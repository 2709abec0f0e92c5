//! The messages of a bulk connection: the first copy, and every later resync. `docs/wire.md` shows them as bytes.
//!
//! The *source* (the primary) opens it beside the connection of its session, as many as it wants to work in
//! parallel. It sends [`ToTarget`], the *target* answers each request once with [`ToSource`], in the order of the
//! requests. The first frame each way is `Open`, then `Opened` or `Refused`.
//!
//! Requests carry no numbers of the session's order, because they need none: the source sends one only while no
//! operation that it could collide with is under way, and holds such operations back until the answer is there
//! (`session/coverage.rs`).

use super::frame::{self, Encoded, Message, WireError};
use super::limits::{self, Limits};
use super::message::SessionId;
use super::survey::{self, Sight, Spot};
use crate::operation::{Errno, FileHandle, InodeId, Name, NodeKind, Timestamp, XattrName};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes that are compared, and sent when they differ, as one: the block of a checksum.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// Most data in one [`ToTarget::Data`].
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// Most names in one [`ToTarget::Place`] and one [`ToSource::Listed`].
pub const NAMES_MAX: usize = 1024;
/// Longest path in [`ToTarget::List`] and [`ToTarget::Place`], where something is excluded: below a directory deeper than
/// that a copy is not possible then.
pub const PATH_BELOW_BYTES_MAX: usize = 64 << 10;
/// Most blocks in one [`ToTarget::Compare`].
pub const BLOCKS_MAX: usize = 1024;
/// Most extended attributes of one inode. The kernel lists at most 64 KiB of names (`XATTR_LIST_MAX`).
pub const XATTRS_MAX: usize = 16 << 10;

/// Longest body of a frame to the target: a full `Data`, or names with symbolic links of full length, and room.
const TO_TARGET_BYTES_MAX: usize = 8 << 20;
/// Longest body of a frame to the source: a full `Listed`.
const TO_SOURCE_BYTES_MAX: usize = 1 << 20;

/// The body is one byte of this, a postcard [`DataHead`] and the data, which ends with the frame.
const KIND_DATA: u8 = 1;

/// The first 16 bytes of the BLAKE3 hash of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum(pub [u8; 16]);

impl Sum {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut sum = [0; 16];
        sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Sum(sum)
    }
}

/// From the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToTarget {
    /// First frame of a connection.
    Open(Open),
    /// Asks for the names in a directory; answered by as many [`ToSource::Listed`] as it takes.
    List {
        /// The directory, bound already.
        directory: InodeId,
        /// As in `Place`.
        path: Bytes,
    },
    /// Brings these names of a directory to what they are on the source. Answered by [`ToSource::Placed`].
    Place {
        /// The directory, bound already.
        directory: InodeId,
        /// Each name once.
        entries: Vec<Entry>,
        /// What has the name of an unknown inode becomes it only if it is a directory or has no other name.
        sole: bool,
        /// The directory's path on the source, below the replicated directory, by which each side knows what is excluded:
        /// the target may have it elsewhere yet. Empty for a replicated directory itself, and where nothing is excluded.
        path: Bytes,
    },
    /// Asks which of these blocks the target has. Answered by [`ToSource::Compared`].
    Compare {
        /// The blocks.
        blocks: Vec<Block>,
    },
    /// Writes data; the times of the file are not kept. Answered by [`ToSource::Written`].
    Data {
        /// The file.
        inode: InodeId,
        /// Where, in bytes.
        offset: u64,
        /// What; 1 byte to [`DATA_BYTES_MAX`].
        data: Bytes,
    },
    /// Makes this range a hole, as far as the file reaches. Answered by [`ToSource::Written`].
    Hole {
        /// The file.
        inode: InodeId,
        /// From, in bytes.
        offset: u64,
        /// How many bytes, at least 1.
        length: u64,
    },
    /// Gives an inode all its attributes, and a file its size: the last step of its copy. Answered by
    /// [`ToSource::Written`].
    Attributes {
        /// The inode.
        inode: InodeId,
        /// All of them.
        attributes: Box<AllAttributes>,
    },
    /// Tells which inodes of the target some of the source's are. Answered by [`ToSource::Identified`].
    Identify {
        /// At most [`NAMES_MAX`].
        nodes: Vec<Identify>,
    },
    /// Everything is brought over: what was put aside goes, and everything is to be on disk. Answered by
    /// [`ToSource::Written`].
    Settle,
    /// Asks for the names in a directory, as [`ToTarget::List`]. This and the following are for a verification: they
    /// change nothing, and are taken also when the pair is in sync.
    Names {
        /// The directory.
        directory: Spot,
    },
    /// Asks what is behind names of a directory. Answered by [`ToSource::Surveyed`].
    Survey {
        /// The directory.
        directory: Spot,
        /// At most [`NAMES_MAX`].
        names: Vec<Name>,
    },
    /// Asks what one node is. Answered by [`ToSource::Surveyed`] with one.
    Look {
        /// The node.
        node: Spot,
    },
    /// Asks for the sums of a file's blocks. Answered by [`ToSource::Summed`].
    Sums {
        /// The file.
        file: Spot,
        /// Where the first block begins, in bytes.
        offset: u64,
        /// How many bytes: at most [`BLOCKS_MAX`] blocks.
        length: u64,
    },
}

/// An inode of the source that the target has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identify {
    /// Its number.
    pub inode: InodeId,
    /// Index of the replicated directory.
    pub root: u32,
    /// What it is; of another kind it is not the same.
    pub kind: NodeKind,
    /// The source's backing handle.
    pub handle: FileHandle,
    /// How the target finds it.
    pub by: By,
}

/// How the target finds an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    /// By the backing handle that it once told.
    Handle(FileHandle),
    /// By a name in a directory that is bound already.
    Place {
        /// The directory.
        parent: InodeId,
        /// The name.
        name: Name,
    },
}

/// Which copy a connection serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The module.
    pub module: String,
    /// The sender; the certificate must carry the same name.
    pub node: String,
    /// The session that is being joined by copying.
    pub session: SessionId,
}

/// What one name is on the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// None: nothing has this name; what the target has there is put aside.
    pub node: Option<Node>,
}

/// The inode behind a name on the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub inode: InodeId,
    /// The target was told of it before: it is moved or linked to here. Else what has the name on the target
    /// becomes this inode if it is of the same kind and none of the numbered ones, and a new one is made if not.
    pub known: bool,
    /// What it is. The attributes come later; until then nobody but root may use a new one.
    pub kind: NodeKind,
    /// The source's backing handle.
    pub handle: FileHandle,
}

/// A block of a file on the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The file.
    pub inode: InodeId,
    /// Where, in bytes.
    pub offset: u64,
    /// How long; at most [`BLOCK_BYTES`], less at the end of a file.
    pub length: u32,
    /// Of its bytes.
    pub sum: Sum,
}

/// Everything about an inode but its names and its data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllAttributes {
    /// Of a regular file.
    pub size: Option<u64>,
    /// `st_mode & 07777`; without effect on a symbolic link.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the data.
    pub mtime: Timestamp,
    /// All extended attributes, ACLs included, but Sidekick's own; others are removed.
    pub xattrs: Vec<(XattrName, Bytes)>,
}

/// From the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSource {
    /// The connection serves the copy.
    Opened,
    /// It does not, and is closed.
    Refused {
        /// Why.
        reason: String,
    },
    /// Names in the directory, without the reserved one.
    Listed {
        /// Some of them.
        names: Vec<Name>,
        /// More follow in a further answer.
        more: bool,
    },
    /// What became of the names, in the order of the request.
    Placed {
        /// One for each entry.
        outcomes: Vec<Placed>,
    },
    /// Whether the target has the blocks, in the order of the request.
    Compared {
        /// True: the same bytes, and no hole among them.
        equal: Vec<bool>,
    },
    /// The answer to `Data`, `Hole`, `Attributes` and `Settle`.
    Written,
    /// The target's handles of those that it found, in the order of the request. It knows them by their numbers now.
    Identified {
        /// One for each node.
        handles: Vec<Option<FileHandle>>,
    },
    /// The answer to `Survey` and `Look`.
    Surveyed {
        /// In the order of the request: as many as fit, at least one. The source asks for the rest again.
        sights: Vec<Sight>,
    },
    /// The answer to `Sums`.
    Summed {
        /// One for each block as far as the file reaches; none for a block that is nothing but zeroes or hole.
        sums: Vec<Option<Sum>>,
    },
    /// The request failed: what the target has of it is not known. The copy is over.
    Failed {
        /// The error.
        errno: Errno,
        /// What failed, on what.
        reason: String,
    },
}

/// What became of one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placed {
    /// Nothing has this name any more.
    Vacant,
    /// The name leads to the inode now.
    There {
        /// The target's backing handle of it.
        handle: FileHandle,
        /// It was made just now: it holds no data and no attributes worth comparing.
        new: bool,
    },
    /// A directory cannot be moved below itself: another name must be brought over first.
    Blocked,
}

#[derive(Serialize, Deserialize)]
struct DataHead {
    inode: InodeId,
    offset: u64,
}

impl Message for ToTarget {
    const BYTES_MAX: usize = TO_TARGET_BYTES_MAX;

    fn encode(&self) -> Result<Encoded<Self>, WireError> {
        self.check()?;
        match self {
            ToTarget::Data { inode, offset, data } => {
                let head = DataHead {
                    inode: *inode,
                    offset: *offset,
                };
                frame::frame(KIND_DATA, &head, Some(data.clone()), Self::BYTES_MAX)
            }
            other => frame::frame(frame::KIND_MESSAGE, other, None, Self::BYTES_MAX),
        }
    }

    fn decode(body: Bytes) -> Result<Self, WireError> {
        let message = match body.first() {
            Some(&KIND_DATA) => {
                let (DataHead { inode, offset }, data) = frame::take(&body)?;
                ToTarget::Data { inode, offset, data }
            }
            _ => match frame::whole::<ToTarget>(&body)? {
                // Each message has one form only.
                ToTarget::Data { .. } => {
                    return Err(frame::malformed(&body, "data in the form of another message"));
                }
                message => message,
            },
        };
        message.check()?;
        Ok(message)
    }
}

impl Message for ToSource {
    const BYTES_MAX: usize = TO_SOURCE_BYTES_MAX;

    fn encode(&self) -> Result<Encoded<Self>, WireError> {
        self.check()?;
        frame::frame(frame::KIND_MESSAGE, self, None, Self::BYTES_MAX)
    }

    fn decode(body: Bytes) -> Result<Self, WireError> {
        let message = frame::whole::<ToSource>(&body)?;
        message.check()?;
        Ok(message)
    }
}

impl ToTarget {
    /// It changes nothing on the target.
    pub fn only_looks(&self) -> bool {
        match self {
            ToTarget::Names { .. }
            | ToTarget::Survey { .. }
            | ToTarget::Look { .. }
            | ToTarget::Sums { .. } => true,
            ToTarget::Open(_)
            | ToTarget::List { .. }
            | ToTarget::Place { .. }
            | ToTarget::Compare { .. }
            | ToTarget::Data { .. }
            | ToTarget::Hole { .. }
            | ToTarget::Attributes { .. }
            | ToTarget::Identify { .. }
            | ToTarget::Settle => false,
        }
    }
}

impl Limits for ToTarget {
    fn check(&self) -> Result<(), WireError> {
        match self {
            ToTarget::Open(open) => {
                limits::check_label("module", &open.module)?;
                limits::check_label("node", &open.node)
            }
            ToTarget::List { directory, path } => {
                limits::at_most("path", path.len(), PATH_BELOW_BYTES_MAX)?;
                limits::check_inode(*directory)
            }
            ToTarget::Settle => Ok(()),
            ToTarget::Names { directory: node } | ToTarget::Look { node } => survey::check_spot(node),
            ToTarget::Survey { directory, names } => {
                survey::check_spot(directory)?;
                limits::at_most("names", names.len(), NAMES_MAX)
            }
            ToTarget::Sums { file, offset, length } => {
                survey::check_spot(file)?;
                limits::check_range("sums", *offset, *length)?;
                let starts_a_block = offset.is_multiple_of(BLOCK_BYTES);
                limits::need(starts_a_block, "sums", "do not begin with a block")?;
                limits::at_most("blocks", length.div_ceil(BLOCK_BYTES) as usize, BLOCKS_MAX)
            }
            ToTarget::Identify { nodes } => {
                limits::at_most("nodes", nodes.len(), NAMES_MAX)?;
                nodes.iter().try_for_each(|node| {
                    limits::check_inode(node.inode)?;
                    limits::check_kind(&node.kind)?;
                    limits::check_handle(&node.handle)?;
                    match &node.by {
                        By::Handle(handle) => limits::check_handle(handle),
                        By::Place { parent, name: _ } => limits::check_inode(*parent),
                    }
                })
            }
            ToTarget::Place {
                directory,
                entries,
                sole: _,
                path,
            } => {
                limits::at_most("path", path.len(), PATH_BELOW_BYTES_MAX)?;
                limits::check_inode(*directory)?;
                limits::at_most("entries", entries.len(), NAMES_MAX)?;
                let nodes = entries.iter().filter_map(|entry| entry.node.as_ref());
                nodes.into_iter().try_for_each(|node| {
                    limits::check_inode(node.inode)?;
                    limits::check_kind(&node.kind)?;
                    limits::check_handle(&node.handle)
                })
            }
            ToTarget::Compare { blocks } => {
                limits::at_most("blocks", blocks.len(), BLOCKS_MAX)?;
                blocks.iter().try_for_each(|block| {
                    limits::check_inode(block.inode)?;
                    let fits = (1..=BLOCK_BYTES).contains(&u64::from(block.length));
                    limits::need(fits, "block", "is empty or longer than a block")?;
                    limits::check_range("block", block.offset, u64::from(block.length))
                })
            }
            ToTarget::Data { inode, offset, data } => {
                limits::check_inode(*inode)?;
                limits::need(!data.is_empty(), "data", "is empty")?;
                limits::at_most("data", data.len(), DATA_BYTES_MAX)?;
                limits::check_range("data", *offset, data.len() as u64)
            }
            ToTarget::Hole {
                inode,
                offset,
                length,
            } => {
                limits::check_inode(*inode)?;
                limits::need(*length > 0, "hole", "is empty")?;
                limits::check_range("hole", *offset, *length)
            }
            ToTarget::Attributes { inode, attributes } => {
                limits::check_inode(*inode)?;
                limits::check_range("size", attributes.size.unwrap_or(0), 0)?;
                limits::check_mode(attributes.mode)?;
                limits::check_owner(attributes.uid)?;
                limits::check_owner(attributes.gid)?;
                limits::check_time(attributes.mtime)?;
                limits::at_most("xattrs", attributes.xattrs.len(), XATTRS_MAX)?;
                attributes
                    .xattrs
                    .iter()
                    .try_for_each(|(_, value)| limits::check_xattr(value))
            }
        }
    }
}

impl Limits for ToSource {
    fn check(&self) -> Result<(), WireError> {
        match self {
            ToSource::Opened | ToSource::Written => Ok(()),
            ToSource::Refused { reason } => limits::check_text(reason),
            ToSource::Listed { names, more: _ } => limits::at_most("names", names.len(), NAMES_MAX),
            ToSource::Identified { handles } => {
                limits::at_most("handles", handles.len(), NAMES_MAX)?;
                handles.iter().flatten().try_for_each(limits::check_handle)
            }
            ToSource::Placed { outcomes } => {
                limits::at_most("outcomes", outcomes.len(), NAMES_MAX)?;
                outcomes.iter().try_for_each(|outcome| match outcome {
                    Placed::There { handle, new: _ } => limits::check_handle(handle),
                    Placed::Vacant | Placed::Blocked => Ok(()),
                })
            }
            ToSource::Surveyed { sights } => {
                limits::at_most("sights", sights.len(), NAMES_MAX)?;
                sights.iter().try_for_each(survey::check_sight)
            }
            ToSource::Summed { sums } => limits::at_most("sums", sums.len(), BLOCKS_MAX),
            ToSource::Compared { equal } => limits::at_most("equal", equal.len(), BLOCKS_MAX),
            ToSource::Failed { errno, reason } => {
                limits::check_errno(*errno)?;
                limits::check_text(reason)
            }
        }
    }
}
