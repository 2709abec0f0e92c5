//! Random steps from a seed, blind to what exists.

use super::step::{PathIndices, RenameFlag, Slot, Special, Step, User};
use rustix::fs::{FallocateFlags, OFlags};

/// Slots for open descriptors in each thread.
pub const SLOTS: usize = 8;
/// Files stay below this size, so that offsets meet.
const SIZE_MAX: u64 = 256 << 10;

/// SplitMix64 (Steele, Lea, Flood 2014): one word of state, any seed is good.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// An endless list of steps.
#[derive(Debug, Clone)]
pub struct Generator {
    random: Random,
}

impl Generator {
    /// The same `seed` and `thread` give the same list.
    pub fn new(seed: u64, thread: u64) -> Self {
        Generator {
            random: Random(seed ^ thread.wrapping_mul(0xD129_0EE1_6A6B_3F65)),
        }
    }

    /// The next call and who makes it.
    pub fn next_step(&mut self) -> (User, Step) {
        let user = match self.random.below(10) {
            0..6 => User::Root,
            6..8 => User::Nobody,
            _ => User::Daemon,
        };
        let mut step = self.step();
        // Of a file open for writing, this looks to a FUSE server like a write (docs/semantics.md).
        if let Step::Chown { uid: None, gid, .. } = &mut step
            && user != User::Root
        {
            gid.get_or_insert(0);
        }
        (user, step)
    }

    fn path(&mut self) -> PathIndices {
        let depth = self.random.one_of(&[1, 1, 1, 2, 2, 2, 3, 3, 4]);
        (0..depth)
            .map(|level| self.random.below(if level == 0 { 8 } else { 5 }) as u8)
            .collect()
    }

    fn slot(&mut self) -> Slot {
        self.random.below(SLOTS as u64) as usize
    }

    fn offset(&mut self) -> u64 {
        let offset = self.random.below(SIZE_MAX);
        if self.random.below(2) == 0 {
            offset & !4095
        } else {
            offset
        }
    }

    fn length(&mut self) -> usize {
        let longest = self.random.one_of(&[1, 100, 4096, 4097, 65_536, 150_000]);
        1 + self.random.below(longest) as usize
    }

    fn file_mode(&mut self) -> u32 {
        self.random.one_of(&[
            0o644, 0o666, 0o600, 0o777, 0o4755, 0o2755, 0o6777, 0o640, 0o2644, 0o000,
        ])
    }

    fn directory_mode(&mut self) -> u32 {
        self.random
            .one_of(&[0o755, 0o777, 0o777, 0o1777, 0o2775, 0o2777, 0o700])
    }

    fn open(&mut self) -> Step {
        let access = self
            .random
            .one_of(&[OFlags::RDWR, OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY]);
        let mut flags = access;
        for (one_in, flag) in [
            (2, OFlags::CREATE),
            (6, OFlags::EXCL),
            (6, OFlags::TRUNC),
            (6, OFlags::APPEND),
            (16, OFlags::DSYNC),
            (16, OFlags::SYNC),
            (10, OFlags::NOFOLLOW),
        ] {
            if self.random.below(one_in) == 0 {
                flags |= flag;
            }
        }
        let mode = self.file_mode();
        // O_NONBLOCK: opening a FIFO must not wait for its other end. It means nothing for files.
        let flags = (flags | OFlags::NONBLOCK).bits();
        Step::Open {
            slot: self.slot(),
            path: self.path(),
            flags,
            mode,
        }
    }

    fn fallocate(&mut self) -> Step {
        let keep = FallocateFlags::KEEP_SIZE;
        let mode = self.random.one_of(&[
            FallocateFlags::empty(),
            keep,
            FallocateFlags::PUNCH_HOLE | keep,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::ZERO_RANGE | keep,
        ]);
        Step::Fallocate {
            slot: self.slot(),
            mode: mode.bits(),
            offset: self.offset(),
            length: self.length() as u64,
        }
    }

    fn step(&mut self) -> Step {
        match self.random.below(100) {
            0..12 => self.open(),
            12..14 => Step::OpenDirectory {
                slot: self.slot(),
                path: self.path(),
            },
            14..16 => Step::Close { slot: self.slot() },
            16..28 => {
                let offset = if self.random.below(6) == 0 {
                    None
                } else {
                    Some(self.offset())
                };
                Step::Write {
                    slot: self.slot(),
                    offset,
                    length: self.length(),
                    fill: self.random.next() as u8,
                }
            }
            28..34 => Step::Read {
                slot: self.slot(),
                offset: self.offset(),
                length: self.length(),
            },
            34..37 => Step::Truncate {
                slot: self.slot(),
                size: self.offset(),
            },
            37..41 => self.fallocate(),
            41..43 => {
                let hole = self.random.below(2) == 0;
                Step::Seek {
                    slot: self.slot(),
                    offset: self.offset(),
                    hole,
                }
            }
            43..46 => Step::Copy {
                from: self.slot(),
                to: self.slot(),
                source: self.offset(),
                target: self.offset(),
                length: self.length(),
            },
            46..48 => Step::Map {
                slot: self.slot(),
                offset: self.offset() & !4095,
                length: self.length(),
                fill: self.random.next() as u8,
            },
            48..49 => Step::Sync {
                slot: self.slot(),
                data_only: self.random.below(2) == 0,
            },
            49..58 => Step::Mkdir {
                path: self.path(),
                mode: self.directory_mode(),
            },
            58..60 => {
                let kind =
                    self.random
                        .one_of(&[Special::Fifo, Special::Socket, Special::Character, Special::File]);
                Step::Mknod {
                    path: self.path(),
                    kind,
                    mode: self.file_mode(),
                }
            }
            60..62 => Step::Symlink {
                target: self.path(),
                path: self.path(),
            },
            62..63 => Step::Readlink { path: self.path() },
            63..67 => Step::Link {
                from: self.path(),
                to: self.path(),
            },
            67..71 => Step::Unlink { path: self.path() },
            71..75 => Step::Rmdir { path: self.path() },
            75..82 => {
                let flag = self.random.one_of(&[
                    RenameFlag::Plain,
                    RenameFlag::Plain,
                    RenameFlag::NoReplace,
                    RenameFlag::Exchange,
                ]);
                Step::Rename {
                    from: self.path(),
                    to: self.path(),
                    flag,
                }
            }
            82..84 => {
                let mode = if self.random.below(2) == 0 {
                    self.file_mode()
                } else {
                    self.directory_mode()
                };
                Step::Chmod {
                    path: self.path(),
                    mode,
                }
            }
            84..86 => {
                let ids = [None, Some(0), Some(1), Some(65534)];
                Step::Chown {
                    path: self.path(),
                    uid: self.random.one_of(&ids),
                    gid: self.random.one_of(&ids),
                }
            }
            86..88 => Step::Times {
                path: self.path(),
                seconds: self.random.below(4_000_000_000) as i64 - 1_000_000_000,
                nanoseconds: self.random.below(1_000_000_000) as i64,
            },
            88..90 => Step::SetXattr {
                path: self.path(),
                name: self.random.below(4) as u8,
                length: self.random.one_of(&[0, 1, 50, 500, 3000]),
                fill: self.random.next() as u8,
                flag: self.random.below(3) as u8,
            },
            90..91 => Step::GetXattr {
                path: self.path(),
                name: self.random.below(4) as u8,
            },
            91..92 => Step::RemoveXattr {
                path: self.path(),
                name: self.random.below(4) as u8,
            },
            92..93 => Step::ListXattr { path: self.path() },
            93..95 => Step::SetAcl {
                path: self.path(),
                default: self.random.below(2) == 0,
                user: self.random.one_of(&[1, 65534, 77]),
                permissions: self.random.below(8) as u16,
            },
            95..96 => Step::List { path: self.path() },
            96..97 => Step::Stat { path: self.path() },
            97..98 => Step::StatOpen { slot: self.slot() },
            98..99 => Step::Access {
                path: self.path(),
                mode: self.random.below(8) as u32,
            },
            _ => Step::Umask {
                mask: self.random.one_of(&[0, 0o022, 0o077, 0o027]),
            },
        }
    }
}
