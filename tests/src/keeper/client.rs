//! Asking a lab's keeper.

use super::protocol::{Answer, Order, Request};
use crate::error::{Attempt, Error, Result};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An order may end at its limit and its answer must still arrive.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// Sends an order to the keeper that listens on `socket` and waits for its answer.
///
/// # Errors
/// When nobody listens, no answer comes within `limit` (and a margin), or the keeper refuses.
pub fn ask(socket: &Path, limit: Duration, order: Order) -> Result<Answer> {
    let mut stream = UnixStream::connect(socket).on("reach the keeper of the lab at", socket)?;
    stream
        .set_read_timeout(Some(limit + ANSWER_MARGIN))
        .on("set a time limit on", socket)?;
    let line = serde_json::to_vec(&Request { limit, order })
        .map_err(std::io::Error::from)
        .attempt(|| "write the order as JSON".into())?;
    stream.write_all(&line).on("send an order to", socket)?;
    stream.shutdown(Shutdown::Write).on("send an order to", socket)?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .on("read the keeper's answer from", socket)?;
    let answer: std::result::Result<Answer, String> = serde_json::from_slice(&answer)
        .map_err(std::io::Error::from)
        .on("understand the keeper's answer from", socket)?;
    answer.map_err(Error::Refused)
}
