//! A large write as several operations: while one piece is sealed and sent, the ones before it travel and are
//! written on both nodes.
//!
//! The pieces are operations like any others: they touch one inode, so both nodes apply them in order, and each is
//! accepted, refused or repaired by itself. What this adds is the one answer that the kernel waits for.

use crate::operation::Errno;
use std::sync::{Mutex, PoisonError};

/// Long enough for its own cost not to count, short enough for a write of the kernel's longest to overlap.
pub const PIECE_BYTES: usize = 128 << 10;

type Reply = Box<dyn FnOnce(Result<u32, Errno>) + Send>;

/// Gathers what became of the pieces of one write.
pub struct Pieces {
    inner: Mutex<Inner>,
    /// Answer with the length of what was written before the first piece that failed, as `pwrite(2)` does. Not for
    /// what the kernel writes back: nobody would send the rest again.
    may_be_short: bool,
}

struct Inner {
    /// Of each piece, in their order.
    results: Vec<Option<Result<u32, Errno>>>,
    left: usize,
    reply: Option<Reply>,
}

impl Pieces {
    /// For `count` pieces, at least one; `reply` is called with the last of them.
    pub fn new(
        count: usize,
        may_be_short: bool,
        reply: impl FnOnce(Result<u32, Errno>) + Send + 'static,
    ) -> Self {
        Pieces {
            inner: Mutex::new(Inner {
                results: vec![None; count],
                left: count,
                reply: Some(Box::new(reply)),
            }),
            may_be_short,
        }
    }

    /// What became of a piece, once for each.
    pub fn ended(&self, index: usize, result: Result<u32, Errno>) {
        let (reply, result) = {
            // Nothing in here panics half-way.
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            match inner.results.get_mut(index) {
                Some(place @ None) => *place = Some(result),
                Some(Some(_)) | None => return,
            }
            inner.left -= 1;
            if inner.left > 0 {
                return;
            }
            (inner.reply.take(), self.sum(&inner.results))
        };
        if let Some(reply) = reply {
            reply(result);
        }
    }

    fn sum(&self, results: &[Option<Result<u32, Errno>>]) -> Result<u32, Errno> {
        let mut written = 0;
        for result in results.iter().flatten() {
            match result {
                Ok(length) => written += length,
                Err(_) if self.may_be_short && written > 0 => break,
                Err(errno) => return Err(*errno),
            }
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const FULL: Errno = Errno(28);

    fn answer(may_be_short: bool, ends: &[(usize, Result<u32, Errno>)]) -> Result<u32, Errno> {
        let (send, answered) = mpsc::channel();
        let pieces = Pieces::new(ends.len(), may_be_short, move |result| send.send(result).unwrap());
        for (index, result) in ends {
            assert_eq!(answered.try_recv(), Err(mpsc::TryRecvError::Empty));
            pieces.ended(*index, *result);
        }
        answered.try_recv().unwrap()
    }

    #[test]
    fn the_last_piece_to_end_answers_for_all() {
        assert_eq!(answer(true, &[(2, Ok(3)), (0, Ok(8)), (1, Ok(8))]), Ok(19));
    }

    #[test]
    fn what_precedes_the_first_failure_counts() {
        assert_eq!(answer(true, &[(0, Ok(8)), (2, Ok(8)), (1, Err(FULL))]), Ok(8));
        assert_eq!(answer(true, &[(0, Err(FULL)), (1, Ok(8))]), Err(FULL));
    }

    #[test]
    fn what_the_kernel_writes_back_fails_as_a_whole() {
        assert_eq!(answer(false, &[(0, Ok(8)), (1, Err(FULL))]), Err(FULL));
    }
}
