//! POSIX ACLs as extended attribute values (linux/posix_acl_xattr.h), as far as a mount needs them: which
//! permission bits setting one leads to. Inheritance is `backing::Store::inherit`.

/// The attribute that changes the permission bits.
pub const ACCESS: &[u8] = b"system.posix_acl_access";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The permission bits of an inode with this access ACL (`posix_acl_equiv_mode()`); `None` if it is no ACL.
pub fn permission_bits(value: &[u8]) -> Option<u32> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
        return None;
    }
    let permissions = |wanted: u16| {
        entries.iter().find_map(|[tag0, tag1, low, high, ..]| {
            (u16::from_le_bytes([*tag0, *tag1]) == wanted)
                .then(|| u32::from(u16::from_le_bytes([*low, *high])) & 0o7)
        })
    };
    // With a mask, the group bits of the mode are the mask.
    let group = permissions(MASK).or_else(|| permissions(GROUP_OBJ))?;
    Some(permissions(USER_OBJ)? << 6 | group << 3 | permissions(OTHER)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(u32::MAX.to_le_bytes());
        }
        value
    }

    #[test]
    fn the_mask_stands_for_the_group_bits() {
        let minimal = acl(&[(USER_OBJ, 6), (GROUP_OBJ, 5), (OTHER, 4)]);
        assert_eq!(permission_bits(&minimal), Some(0o654));
        let named = acl(&[(USER_OBJ, 6), (0x02, 7), (GROUP_OBJ, 5), (MASK, 1), (OTHER, 0)]);
        assert_eq!(permission_bits(&named), Some(0o610));
    }

    #[test]
    fn what_is_no_acl_has_no_bits() {
        for value in [
            &b""[..],
            b"\x02\0\0",
            b"\x02\0\0\0",
            b"\x01\0\0\0",
            b"\x02\0\0\0\x01",
        ] {
            assert_eq!(permission_bits(value), None);
        }
    }
}
