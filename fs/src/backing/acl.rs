//! What a new node inherits from its parent's default ACL, worked out as the kernel does it.
//!
//! The primary ships the result; the layout of the attribute's value is that of linux/posix_acl_xattr.h.

use super::node::{ACL_ACCESS, ACL_DEFAULT};
use super::open::Access;
use super::store::Store;
use crate::operation::{Errno, InodeId, NodeKind, XattrName};
use bytes::Bytes;

const VERSION: u32 = 2;
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Mode and ACLs of a new node, as [`crate::operation::Create`] takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// `st_mode & 07777`.
    pub mode: u32,
    /// `system.posix_acl_access` and `system.posix_acl_default`, as far as the node gets one.
    pub acls: Vec<(XattrName, Bytes)>,
}

impl Store {
    /// What a node of `kind` made in `parent` with `mode` by a process with `umask` gets. The umask counts only
    /// where the parent has no default ACL. Set-id and sticky bits of `mode` stay; the set-group-id bit that a
    /// directory inherits is not looked at.
    ///
    /// # Errors
    /// `EIO` when the parent's ACL is not well-formed.
    pub fn inherit(
        &self,
        parent: InodeId,
        kind: &NodeKind,
        mode: u32,
        umask: u32,
    ) -> Result<Inherited, Errno> {
        let plain = Inherited {
            mode: mode & !(umask & 0o777),
            acls: Vec::new(),
        };
        if matches!(kind, NodeKind::Symlink(_)) {
            return Ok(Inherited { mode: 0o777, ..plain });
        }
        let directory = self.open(parent, Access::Path)?;
        match directory.xattr(ACL_DEFAULT) {
            Ok(default) => inherit(&default, matches!(kind, NodeKind::Directory), mode)
                .ok_or(rustix::io::Errno::IO.into()),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(plain),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What a node made with `mode` gets from its parent's `default` ACL, as `posix_acl_create` and
/// `posix_acl_create_masq` of fs/posix_acl.c work it out. `None` when `default` is no ACL.
pub fn inherit(default: &[u8], directory: bool, mode: u32) -> Option<Inherited> {
    let mut entries = decode(default)?;
    let mut rights = mode & 0o777;
    let mut extended = false;
    let (mut mask, mut group) = (None, None);
    for (index, entry) in entries.iter_mut().enumerate() {
        let perm = u32::from(entry.perm);
        match entry.tag {
            USER_OBJ => {
                let allowed = perm & (rights >> 6);
                entry.perm = allowed as u16;
                rights = rights & !0o700 | allowed << 6;
            }
            OTHER => {
                let allowed = perm & rights & 0o7;
                entry.perm = allowed as u16;
                rights = rights & !0o007 | allowed;
            }
            USER | GROUP => extended = true,
            GROUP_OBJ => group = Some(index),
            MASK => {
                mask = Some(index);
                extended = true;
            }
            _ => return None,
        }
    }
    let middle = entries.get_mut(mask.or(group)?)?;
    let allowed = u32::from(middle.perm) & (rights >> 3) & 0o7;
    middle.perm = allowed as u16;
    rights = rights & !0o070 | allowed << 3;

    let mut acls = Vec::new();
    if extended {
        acls.push((XattrName::new(ACL_ACCESS).ok()?, encode(&entries)));
    }
    if directory {
        acls.push((XattrName::new(ACL_DEFAULT).ok()?, Bytes::copy_from_slice(default)));
    }
    Some(Inherited {
        mode: mode & 0o7000 | rights,
        acls,
    })
}

#[derive(Clone, Copy)]
struct AclEntry {
    tag: u16,
    perm: u16,
    id: u32,
}

fn decode(value: &[u8]) -> Option<Vec<AclEntry>> {
    let (header, body) = value.split_first_chunk::<HEADER_BYTES>()?;
    if u32::from_le_bytes(*header) != VERSION || body.len() % ENTRY_BYTES != 0 {
        return None;
    }
    let (entries, _) = body.as_chunks::<ENTRY_BYTES>();
    Some(
        entries
            .iter()
            .map(|[a, b, c, d, e, f, g, h]| AclEntry {
                tag: u16::from_le_bytes([*a, *b]),
                perm: u16::from_le_bytes([*c, *d]) & 0o7,
                id: u32::from_le_bytes([*e, *f, *g, *h]),
            })
            .collect(),
    )
}

fn encode(entries: &[AclEntry]) -> Bytes {
    let mut value = Vec::with_capacity(HEADER_BYTES + entries.len() * ENTRY_BYTES);
    value.extend(VERSION.to_le_bytes());
    for entry in entries {
        value.extend(entry.tag.to_le_bytes());
        value.extend(entry.perm.to_le_bytes());
        value.extend(entry.id.to_le_bytes());
    }
    value.into()
}
