//! What a verification has compared and found: shared by the threads that compare and whoever looks.

use super::super::progress::{Orders, Progress};
use crate::control::verification::{Aspect, Difference, Repair, Report, Verification};
use crate::operation::{Name, NodeKind};
use crate::wire::survey::Facts;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most text of differences that is kept to be shown, so that it fits a frame of the control socket.
const SHOWN_BYTES_MAX: usize = 256 << 10;
/// Most ranges of one difference that are shown.
const RANGES_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Findings {
    repair: bool,
    began: Instant,
    /// Rate and present path.
    pub(super) progress: Progress,
    pub(super) directories: AtomicU64,
    pub(super) files: AtomicU64,
    pub(super) others: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) held: AtomicU64,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    differences: u64,
    repaired: u64,
    shown: Vec<Difference>,
    shown_bytes: usize,
    /// How it ended, and how long it took.
    ended: Option<(Duration, Option<String>)>,
}

impl Findings {
    /// Nothing is compared yet.
    pub fn new(repair: bool) -> Self {
        Findings {
            repair,
            began: Instant::now(),
            progress: Progress::default(),
            directories: AtomicU64::new(0),
            files: AtomicU64::new(0),
            others: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            held: AtomicU64::new(0),
            found: Mutex::default(),
        }
    }

    /// It has ended, before its end if there is an error.
    pub fn end(&self, error: Option<String>) {
        let took = self.began.elapsed();
        self.lock().ended.get_or_insert((took, error));
    }

    /// It has ended.
    pub fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// For the status.
    pub fn verification(&self, orders: &Orders) -> Verification {
        let shown = self.progress.show(orders);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let found = self.lock();
        let running = found.ended.is_none();
        let took = found
            .ended
            .as_ref()
            .map_or_else(|| self.began.elapsed(), |(took, _)| *took);
        Verification {
            running,
            repair: self.repair,
            error: found.ended.as_ref().and_then(|(_, error)| error.clone()),
            directories: load(&self.directories),
            files: load(&self.files),
            others: load(&self.others),
            bytes: load(&self.bytes),
            differences: found.differences,
            repaired: found.repaired,
            held: load(&self.held),
            seconds: took.as_secs_f64(),
            rate_bytes_per_second: shown.rate_bytes_per_second.filter(|_| running),
            current: shown
                .current
                .filter(|_| running)
                .map(|path| path.to_string_lossy().into_owned()),
            paused: running && shown.paused,
            limit_bytes_per_second: shown.limit_bytes_per_second.filter(|_| running),
            held_back: false,
        }
    }

    /// With what was found so far.
    pub fn report(&self, orders: &Orders) -> Report {
        Report {
            verification: self.verification(orders),
            found: self.lock().shown.clone(),
        }
    }

    /// One more.
    pub(super) fn add(&self, mut difference: Difference) {
        let (path, what, detail) = (&difference.path, difference.aspect.as_str(), &difference.detail);
        match &difference.repair {
            None => tracing::warn!(%path, what, %detail, "the copies differ"),
            Some(Repair::Done) => tracing::warn!(%path, what, %detail, "the copies differed; repaired"),
            Some(Repair::Failed { reason }) => {
                tracing::error!(%path, what, %detail, %reason, "the copies differ and cannot be repaired");
            }
        }
        difference.ranges.truncate(RANGES_MAX);
        let bytes = difference.path.len() + difference.detail.len() + 40 * difference.ranges.len() + 100;
        let mut found = self.lock();
        found.differences += 1;
        found.repaired += u64::from(difference.repair == Some(Repair::Done));
        if found.shown_bytes + bytes <= SHOWN_BYTES_MAX {
            found.shown_bytes += bytes;
            found.shown.push(difference);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        // Counters and entries that are added whole.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One aspect in which a name, or the node behind it, differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) aspect: Aspect,
    pub(super) detail: String,
    pub(super) ranges: Vec<(u64, u64)>,
}

impl Mismatch {
    pub(super) fn new(aspect: Aspect, detail: impl Into<String>) -> Self {
        Mismatch {
            aspect,
            detail: detail.into(),
            ranges: Vec::new(),
        }
    }

    /// Blocks of data.
    pub(super) fn data(blocks: &[Range<u64>]) -> Self {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for block in blocks {
            match ranges.last_mut() {
                Some((_, end)) if *end == block.start => *end = block.end,
                _ => ranges.push((block.start, block.end)),
            }
        }
        let bytes: u64 = ranges.iter().map(|(start, end)| end - start).sum();
        let first = ranges.first().map_or(0, |(start, _)| *start);
        Mismatch {
            aspect: Aspect::Data,
            detail: format!("in blocks with {bytes} bytes, the first at byte {first}"),
            ranges,
        }
    }

    pub(super) fn at(&self, path: &str, repair: Option<Repair>) -> Difference {
        Difference {
            path: path.to_owned(),
            aspect: self.aspect,
            detail: self.detail.clone(),
            ranges: self.ranges.clone(),
            repair,
        }
    }
}

/// In what two nodes differ, but for their data.
pub(super) fn mismatches(here: &Facts, there: &Facts) -> Vec<Mismatch> {
    let mut found = Vec::new();
    if here.kind != there.kind {
        let detail = format!("{} here, {} there", kind(&here.kind), kind(&there.kind));
        // Nothing else is comparable then.
        return vec![Mismatch::new(Aspect::Type, detail)];
    }
    let mut differ = |aspect, detail: String| found.push(Mismatch::new(aspect, detail));
    if here.links != there.links {
        differ(
            Aspect::Links,
            format!("{} names here, {} there", here.links, there.links),
        );
    }
    if let (Some(one), Some(other)) = (here.size, there.size)
        && one != other
    {
        differ(Aspect::Size, format!("{one} bytes here, {other} there"));
    }
    if here.mode != there.mode {
        differ(
            Aspect::Mode,
            format!("{:04o} here, {:04o} there", here.mode, there.mode),
        );
    }
    if (here.uid, here.gid) != (there.uid, there.gid) {
        let detail = format!(
            "{}:{} here, {}:{} there",
            here.uid, here.gid, there.uid, there.gid
        );
        differ(Aspect::Owner, detail);
    }
    if here.mtime != there.mtime {
        let (one, other) = (here.mtime, there.mtime);
        let detail = format!(
            "{}.{:09} here, {}.{:09} there",
            one.seconds, one.nanoseconds, other.seconds, other.nanoseconds
        );
        differ(Aspect::Mtime, detail);
    }
    for (name, sum) in &here.xattrs {
        match there.xattrs.iter().find(|(other, _)| other == name) {
            Some((_, other)) if other == sum => {}
            Some(_) => differ(Aspect::Xattr, format!("another value of {name:?}")),
            None => differ(Aspect::Xattr, format!("{name:?} only here")),
        }
    }
    for (name, _) in &there.xattrs {
        if !here.xattrs.iter().any(|(other, _)| other == name) {
            differ(Aspect::Xattr, format!("{name:?} only there"));
        }
    }
    found
}

pub(super) fn kind(kind: &NodeKind) -> String {
    match kind {
        NodeKind::File => "a file".to_owned(),
        NodeKind::Directory => "a directory".to_owned(),
        NodeKind::Symlink(target) => format!("a symbolic link to \"{}\"", target.escape_ascii()),
        NodeKind::Fifo => "a FIFO".to_owned(),
        NodeKind::Socket => "a socket".to_owned(),
        NodeKind::CharacterDevice(device) => format!("the character device {device:#x}"),
        NodeKind::BlockDevice(device) => format!("the block device {device:#x}"),
    }
}

/// A path for a person: text stays, what is none is escaped.
pub(super) fn join(above: &str, name: &Name) -> String {
    match std::str::from_utf8(name.as_bytes()) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{above}/{text}"),
        Ok(_) | Err(_) => format!("{above}/{name}"),
    }
}
