//! Who asks: the caller of a request, and what the kernel would let that caller keep.

use fuser::Request;
use std::cell::OnceCell;

/// `CAP_FSETID`: keeps set-id bits (capability.h).
const CAP_FSETID: u32 = 4;

/// The caller of one request. Groups and capabilities are read from `/proc` when a rule needs them, which is
/// rare; a caller that is gone by then has neither.
pub struct Caller {
    /// File-system user number.
    pub uid: u32,
    /// File-system group number.
    pub gid: u32,
    pid: u32,
    status: OnceCell<Option<Status>>,
}

/// The lines of `/proc/PID/status` that matter here.
struct Status {
    groups: Vec<u32>,
    effective: u64,
}

impl Caller {
    /// The caller of `request`.
    pub fn of(request: &Request) -> Self {
        Caller {
            uid: request.uid(),
            gid: request.gid(),
            pid: request.pid(),
            status: OnceCell::new(),
        }
    }

    /// True when the caller has `CAP_FSETID` as the kernel counts it. A capability of another user's process
    /// is not believed: it may hold in a user namespace of its own only.
    pub fn keeps_set_id(&self) -> bool {
        self.uid == 0
            && self
                .status()
                .is_none_or(|status| status.effective & (1 << CAP_FSETID) != 0)
    }

    /// `in_group_or_capable()` of the kernel: may this caller set or keep setgid for `group`?
    pub fn in_group_or_capable(&self, group: u32) -> bool {
        self.gid == group
            || self.status().is_some_and(|status| status.groups.contains(&group))
            || self.keeps_set_id()
    }

    fn status(&self) -> Option<&Status> {
        self.status.get_or_init(|| Status::read(self.pid)).as_ref()
    }
}

impl Status {
    /// The request carries the number of a thread, for which `/proc` has a directory too. 0 is a caller of
    /// another process namespace.
    fn read(pid: u32) -> Option<Self> {
        if pid == 0 {
            return None;
        }
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        Some(Status {
            groups: line("Groups:")?
                .split_whitespace()
                .filter_map(|group| group.parse().ok())
                .collect(),
            effective: u64::from_str_radix(line("CapEff:")?.trim(), 16).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, gid: u32, status: Option<Status>) -> Caller {
        Caller {
            uid,
            gid,
            pid: 0,
            status: OnceCell::from(status),
        }
    }

    #[test]
    fn supplementary_groups_count_as_membership() {
        let status = Status {
            groups: vec![100, 27],
            effective: 0,
        };
        let caller = caller(1000, 1000, Some(status));
        assert!(caller.in_group_or_capable(27));
        assert!(caller.in_group_or_capable(1000));
        assert!(!caller.in_group_or_capable(0));
    }

    #[test]
    fn root_without_the_capability_keeps_no_set_id_bits() {
        let without = Status {
            groups: vec![],
            effective: !(1 << CAP_FSETID),
        };
        assert!(!caller(0, 0, Some(without)).keeps_set_id());
        assert!(caller(0, 0, None).keeps_set_id());
        let user = Status {
            groups: vec![],
            effective: u64::MAX,
        };
        assert!(!caller(1000, 1000, Some(user)).keeps_set_id());
    }

    #[test]
    fn the_status_of_this_very_process_can_be_read() {
        assert!(Status::read(std::process::id()).is_some());
        assert!(Status::read(0).is_none());
    }
}
