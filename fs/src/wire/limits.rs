//! What each field of a message may hold. Checked before a message is sent and after one is decoded, so that
//! what a peer sends is either within these limits or an error, and what this node sends is never refused.
//!
//! The list limits are chosen so that every message within them fits its frame
//! ([`super::frame::TO_SECONDARY_BYTES_MAX`], [`super::frame::TO_PRIMARY_BYTES_MAX`]): a sender with more
//! to say sends several.

use super::frame::WireError;
use super::message::{Answer, Hello, Identities, Offer, Rejection, Start, ToPrimary, ToSecondary, Welcome};
use crate::exclude::{PATTERNS_BYTES_MAX, PATTERNS_MAX};
use crate::operation::{
    COPY_BYTES_MAX, Create, Errno, FileHandle, InodeId, NodeKind, Number, Operation, Outcome, Timestamp,
    WRITE_BYTES_MAX, XATTR_BYTES_MAX,
};

/// Most handles in the `introduced` list of one [`ToSecondary::Operation`].
pub const INTRODUCED_MAX: usize = 4096;
/// Most inodes in one [`ToSecondary::Forget`].
pub const FORGET_MAX: usize = 65_536;
/// Most answers in one message. A welcome repeats every unconfirmed answer, so this also bounds how many
/// operations a primary may have numbered and not confirmed.
pub const ANSWERS_MAX: usize = 1 << 17;
/// Most numbers in [`Welcome::received`].
pub const RECEIVED_MAX: usize = 1 << 16;
/// Most entries of [`ToPrimary::Pong`].
pub const RUNNING_MAX: usize = 64;
/// Most replicated directories in one module.
pub const DIRECTORIES_MAX: usize = 64;
/// Most users, and most groups, in [`Identities`].
pub const IDENTITIES_MAX: usize = 4096;
/// Longest name of a user or group in [`Identities`], in bytes (`LOGIN_NAME_MAX`).
pub const IDENTITY_BYTES_MAX: usize = 256;
/// Longest name of a module or node in bytes (`config.rs` has the same limit).
pub const LABEL_BYTES_MAX: usize = 63;
/// Longest path in a message in bytes (`PATH_MAX`).
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest reason or explanation in bytes; [`text`] cuts one to it.
pub const TEXT_BYTES_MAX: usize = 16 << 10;
/// Longest file handle in bytes (`MAX_HANDLE_SZ`, linux/exportfs.h).
pub const HANDLE_BYTES_MAX: usize = 128;
/// Longest target of a symbolic link in bytes (`PATH_MAX` less its NUL).
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Most ACLs of a [`Create`]: the access and the default one.
pub const ACLS_MAX: usize = 2;

/// Largest offset or size that Linux takes (`loff_t`).
const OFFSET_MAX: u64 = i64::MAX as u64;
/// Largest error number that the kernel returns (`MAX_ERRNO`, linux/err.h).
const ERRNO_MAX: i32 = 4095;

/// A message whose every field can be checked.
pub trait Limits {
    /// # Errors
    /// [`WireError::Limit`], naming the first field that is outside.
    fn check(&self) -> Result<(), WireError>;
}

/// `text` as a reason or explanation: cut to [`TEXT_BYTES_MAX`] at the end of a character.
pub fn text(mut text: String) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

impl Limits for ToSecondary {
    fn check(&self) -> Result<(), WireError> {
        match self {
            ToSecondary::Hello(hello) => check_hello(hello),
            ToSecondary::Operation {
                number,
                confirmed,
                introduced,
                operation,
            } => {
                check_number(*number)?;
                need(
                    confirmed < number,
                    "confirmed",
                    "is not below the operation's own number",
                )?;
                at_most("introduced", introduced.len(), INTRODUCED_MAX)?;
                for (inode, handle) in introduced {
                    check_inode(*inode)?;
                    check_handle(handle)?;
                }
                check_operation(operation)
            }
            ToSecondary::Ping { nonce: _, confirmed } => check_prefix(*confirmed),
            ToSecondary::End => Ok(()),
            ToSecondary::Forget(inodes) => {
                at_most("forget", inodes.len(), FORGET_MAX)?;
                inodes.iter().copied().try_for_each(check_inode)
            }
            ToSecondary::Part {
                generation: _,
                reason,
            } => check_text(reason),
            ToSecondary::Complete { generation: _ } => Ok(()),
            ToSecondary::Covered { number } => check_prefix(*number),
        }
    }
}

impl Limits for ToPrimary {
    fn check(&self) -> Result<(), WireError> {
        match self {
            ToPrimary::Welcome(welcome) => check_welcome(welcome),
            ToPrimary::Reject(rejection) => check_rejection(rejection),
            ToPrimary::Answers { prefix, answers } => {
                check_prefix(*prefix)?;
                check_answers(answers)
            }
            ToPrimary::Pong {
                nonce: _,
                prefix,
                running,
                rooms,
            } => {
                check_prefix(*prefix)?;
                at_most("rooms", rooms.len(), DIRECTORIES_MAX)?;
                at_most("running", running.len(), RUNNING_MAX)?;
                running.iter().try_for_each(|one| check_number(one.number))
            }
            ToPrimary::Ended | ToPrimary::Parted | ToPrimary::Completed => Ok(()),
            ToPrimary::Leaving { reason } => check_text(reason),
        }
    }
}

fn check_hello(hello: &Hello) -> Result<(), WireError> {
    check_label("module", &hello.module)?;
    check_label("node", &hello.node)?;
    match hello.start {
        Start::Fresh {
            generation: _,
            clean: _,
        } => {}
        Start::Copy {
            generation: _,
            base: _,
            overwrite: _,
            tracked: _,
        } => {}
        Start::Resume { confirmed } => check_prefix(confirmed)?,
    }
    check_offers(&hello.directories)?;
    check_identities(&hello.identities)
}

fn check_welcome(welcome: &Welcome) -> Result<(), WireError> {
    check_label("node", &welcome.node)?;
    check_prefix(welcome.prefix)?;
    check_answers(&welcome.answers)?;
    at_most("received", welcome.received.len(), RECEIVED_MAX)?;
    welcome.received.iter().copied().try_for_each(check_number)?;
    check_offers(&welcome.directories)?;
    check_identities(&welcome.identities)
}

fn check_rejection(rejection: &Rejection) -> Result<(), WireError> {
    match rejection {
        Rejection::NotSecondary {
            node: one,
            state: other,
        }
        | Rejection::OtherModule {
            ours: one,
            theirs: other,
        }
        | Rejection::OtherNode {
            said: one,
            proved: other,
        } => {
            check_text(one)?;
            check_text(other)
        }
        Rejection::OtherConfiguration(why)
        | Rejection::Unfit(why)
        | Rejection::WouldOverwrite(why)
        | Rejection::FullCopyNeeded(why)
        | Rejection::SplitBrain(why) => check_text(why),
        Rejection::UnknownSession | Rejection::StillRunning | Rejection::Archiving => Ok(()),
    }
}

fn check_offers(offers: &[Offer]) -> Result<(), WireError> {
    at_most("directories", offers.len(), DIRECTORIES_MAX)?;
    offers.iter().try_for_each(|offer| {
        at_most("dir", offer.dir.len(), PATH_BYTES_MAX)?;
        at_most("patterns", offer.exclude.len(), PATTERNS_MAX)?;
        let bytes = offer.exclude.iter().map(String::len).sum();
        at_most("bytes of patterns", bytes, PATTERNS_BYTES_MAX)?;
        check_mode(offer.top.mode)?;
        check_owner(offer.top.uid)?;
        check_owner(offer.top.gid)?;
        check_time(offer.top.mtime)
    })
}

fn check_identities(identities: &Identities) -> Result<(), WireError> {
    for names in [&identities.users, &identities.groups] {
        at_most("identities", names.len(), IDENTITIES_MAX)?;
        for (_, name) in names {
            at_most("identity name", name.len(), IDENTITY_BYTES_MAX)?;
        }
    }
    Ok(())
}

fn check_answers(answers: &[Answer]) -> Result<(), WireError> {
    at_most("answers", answers.len(), ANSWERS_MAX)?;
    answers.iter().try_for_each(|answer| {
        check_number(answer.number)?;
        match &answer.outcome {
            Outcome::Applied(applied) => applied.handle.as_ref().map_or(Ok(()), check_handle),
            Outcome::Refused(errno) | Outcome::Failed(errno) => check_errno(*errno),
            Outcome::NotBound(inode) => check_inode(*inode),
        }
    })
}

fn check_operation(operation: &Operation) -> Result<(), WireError> {
    match operation {
        Operation::Bind {
            inode,
            parent,
            name: _,
            handle,
        } => {
            check_inode(*inode)?;
            check_inode(*parent)?;
            check_handle(handle)
        }
        Operation::Create(create) => check_create(create),
        Operation::Link {
            inode,
            parent,
            name: _,
            time,
        } => {
            check_inode(*inode)?;
            check_inode(*parent)?;
            check_time(*time)
        }
        Operation::Unlink(unlink) => {
            check_inode(unlink.parent)?;
            check_inode(unlink.victim.inode)?;
            check_time(unlink.time)
        }
        Operation::Rename(rename) => {
            check_inode(rename.source_parent)?;
            check_inode(rename.target_parent)?;
            check_inode(rename.moved)?;
            if let Some(victim) = rename.replaced {
                check_inode(victim.inode)?;
            }
            check_time(rename.time)
        }
        Operation::Write {
            inode,
            offset,
            data,
            time,
            mode,
        } => {
            check_inode(*inode)?;
            need(!data.is_empty(), "write", "has no data")?;
            at_most("write", data.len(), WRITE_BYTES_MAX)?;
            check_range("write", *offset, data.len() as u64)?;
            check_optional(*time, check_time)?;
            check_optional(*mode, check_mode)
        }
        Operation::SetAttributes { inode, attributes } => {
            check_inode(*inode)?;
            check_optional(attributes.mode, check_mode)?;
            check_optional(attributes.uid, check_owner)?;
            check_optional(attributes.gid, check_owner)?;
            check_optional(attributes.size, |size| check_range("size", size, 0))?;
            check_optional(attributes.atime, check_time)?;
            check_optional(attributes.mtime, check_time)
        }
        Operation::Fallocate {
            inode,
            mode: _,
            offset,
            length,
            time,
            set_mode,
        } => {
            check_inode(*inode)?;
            need(*length > 0, "fallocate", "has length 0")?;
            check_range("fallocate", *offset, *length)?;
            check_optional(*time, check_time)?;
            check_optional(*set_mode, check_mode)
        }
        Operation::CopyRange {
            source,
            source_offset,
            target,
            target_offset,
            length,
            time,
            set_mode,
        } => {
            check_inode(*source)?;
            check_inode(*target)?;
            need(*length <= COPY_BYTES_MAX, "copy", "is longer than COPY_BYTES_MAX")?;
            check_range("copy source", *source_offset, *length)?;
            check_range("copy target", *target_offset, *length)?;
            check_optional(*time, check_time)?;
            check_optional(*set_mode, check_mode)
        }
        Operation::SetXattr {
            inode,
            name: _,
            value,
            mode: _,
            set_mode,
        } => {
            check_inode(*inode)?;
            check_xattr(value)?;
            check_optional(*set_mode, check_mode)
        }
        Operation::RemoveXattr { inode, name: _ } | Operation::Sync { inode, data_only: _ } => {
            check_inode(*inode)
        }
        Operation::Checkpoint => Ok(()),
    }
}

fn check_create(create: &Create) -> Result<(), WireError> {
    check_inode(create.parent)?;
    check_inode(create.inode)?;
    check_kind(&create.kind)?;
    check_mode(create.mode)?;
    check_owner(create.uid)?;
    check_owner(create.gid)?;
    at_most("acls", create.acls.len(), ACLS_MAX)?;
    for (_, value) in &create.acls {
        at_most("acl", value.len(), XATTR_BYTES_MAX)?;
    }
    check_time(create.time)
}

pub(super) fn check_kind(kind: &NodeKind) -> Result<(), WireError> {
    let NodeKind::Symlink(target) = kind else {
        return Ok(());
    };
    need(!target.is_empty(), "symbolic link", "has no target")?;
    at_most("symbolic link", target.len(), SYMLINK_BYTES_MAX)?;
    need(!target.contains(&0), "symbolic link", "has a NUL in its target")
}

pub(super) fn check_xattr(value: &[u8]) -> Result<(), WireError> {
    at_most("extended attribute", value.len(), XATTR_BYTES_MAX)
}

fn check_optional<T>(value: Option<T>, check: impl Fn(T) -> Result<(), WireError>) -> Result<(), WireError> {
    value.map_or(Ok(()), check)
}

pub(crate) fn check_inode(inode: InodeId) -> Result<(), WireError> {
    need(inode.0 != 0, "inode", "is 0, which is none")
}

fn check_number(number: Number) -> Result<(), WireError> {
    need(number.0 != 0, "number", "is 0, which is before the first")?;
    check_prefix(number)
}

/// "All up to this one": may be 0. The last one has no next, so that `Number::next` cannot overflow.
fn check_prefix(number: Number) -> Result<(), WireError> {
    need(
        number.0 != u64::MAX,
        "number",
        "is 2^64 - 1, which no operation reaches",
    )
}

pub(crate) fn check_handle(handle: &FileHandle) -> Result<(), WireError> {
    at_most("file handle", handle.bytes.len(), HANDLE_BYTES_MAX)
}

pub(super) fn check_time(time: Timestamp) -> Result<(), WireError> {
    need(
        time.nanoseconds < 1_000_000_000,
        "time",
        "has a whole second or more of nanoseconds",
    )
}

pub(super) fn check_mode(mode: u32) -> Result<(), WireError> {
    need(mode & !0o7777 == 0, "mode", "has bits outside 07777")
}

/// `u32::MAX` is -1, which `chown(2)` takes for "leave it": applying it would not give the number it names.
pub(super) fn check_owner(id: u32) -> Result<(), WireError> {
    need(id != u32::MAX, "owner", "is 4294967295, which is none")
}

pub(super) fn check_errno(errno: Errno) -> Result<(), WireError> {
    need(
        (1..=ERRNO_MAX).contains(&errno.0),
        "errno",
        "is outside 1 to 4095",
    )
}

pub(super) fn check_range(what: &'static str, offset: u64, length: u64) -> Result<(), WireError> {
    let fits = offset.checked_add(length).is_some_and(|end| end <= OFFSET_MAX);
    need(fits, what, "reaches beyond 2^63 - 1")
}

pub(super) fn check_label(what: &'static str, label: &str) -> Result<(), WireError> {
    need(!label.is_empty(), what, "is empty")?;
    at_most(what, label.len(), LABEL_BYTES_MAX)
}

pub(super) fn check_text(text: &str) -> Result<(), WireError> {
    at_most("text", text.len(), TEXT_BYTES_MAX)
}

pub(super) fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), WireError> {
    if count <= max {
        return Ok(());
    }
    Err(WireError::Limit {
        what,
        problem: format!("has {count}, more than {max}"),
    })
}

pub(super) fn need(holds: bool, what: &'static str, problem: &'static str) -> Result<(), WireError> {
    if holds {
        return Ok(());
    }
    Err(WireError::Limit {
        what,
        problem: problem.into(),
    })
}
