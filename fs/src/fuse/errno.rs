//! The one place where an error of ours becomes the errno that the kernel hands to the application.

use crate::operation::{Errno, NameError};
use rustix::io::Errno as System;

/// Highest number that the kernel takes in an answer; beyond it it would drop the answer and the application
/// would wait for ever (`fuse_dev_do_write`, fs/fuse/dev.c).
const ERRNO_MAX: i32 = 511;

/// As the FUSE library wants it. A number that is no errno becomes `EIO`.
pub fn reply(errno: Errno) -> fuser::Errno {
    match errno.0 {
        number @ 1..=ERRNO_MAX => fuser::Errno::from_i32(number),
        _ => fuser::Errno::EIO,
    }
}

/// The errno of a system call.
pub fn system(errno: System) -> Errno {
    Errno::from(errno)
}

/// What `open(2)` and others give for such a name. The kernel itself keeps out all but names that are too long.
pub fn name(error: NameError) -> Errno {
    match error {
        NameError::Empty => system(System::NOENT),
        NameError::TooLong(_) => system(System::NAMETOOLONG),
        NameError::Separator | NameError::Dots => system(System::INVAL),
    }
}

/// True for a refusal that leaves names as the kernel knows them; after any other error it must look again.
pub fn leaves_names_alone(errno: Errno) -> bool {
    const REFUSALS: [System; 13] = [
        System::NOENT,
        System::EXIST,
        System::NOTEMPTY,
        System::ISDIR,
        System::NOTDIR,
        System::LOOP,
        System::MLINK,
        System::NAMETOOLONG,
        System::PERM,
        System::ACCESS,
        System::INVAL,
        System::NOSPC,
        System::DQUOT,
    ];
    REFUSALS.iter().any(|refusal| refusal.raw_os_error() == errno.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_the_kernel_would_drop_becomes_eio() {
        for number in [i32::MIN, -5, 0, 512, 4096] {
            assert_eq!(reply(Errno(number)).code(), System::IO.raw_os_error());
        }
        assert_eq!(
            reply(Errno(System::NOSPC.raw_os_error())).code(),
            System::NOSPC.raw_os_error()
        );
    }
}
