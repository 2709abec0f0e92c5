//! A module's status for a person, in 80 columns. The words are those of `--json`.

use serde::Serialize;
use skfs::control::status::{Latency, Status, Tracking};

/// Width of a terminal that everybody has.
const COLUMNS: usize = 80;
/// Where values begin.
const INDENT: usize = 13;

/// The whole of `status`, with a newline at the end.
///
/// # Errors
/// A value has no word in JSON, which is a mistake in its type.
pub fn render(status: &Status) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        let mut name = format!("{name}:");
        for line in wrap(value, COLUMNS - INDENT) {
            text.push_str(&format!("{name:<INDENT$}{line}\n"));
            name.clear();
        }
    };
    field("module", &format!("{} on node {}", status.module, status.node));
    field("skfs", &format!("{}, process {}", status.version, status.pid));
    field(
        "state",
        &format!(
            "{} {} ({})",
            word(&status.state)?,
            word(&status.sub_state)?,
            word(&status.role)?
        ),
    );
    field("copy", &copy(status)?);
    field("peer", peer(status));
    if let Some(reason) = &status.reason {
        field("reason", reason);
    }
    if let Some(copy) = &status.copy {
        field("copying", &skctl::progress::line(copy));
        if let Some(current) = &copy.current {
            field("current", &current.display().to_string());
        }
    }
    if let Some(verification) = &status.verification {
        field("verified", &skctl::verification::line(verification));
        if let Some(current) = &verification.current {
            field("current", current);
        }
    }
    if let Some(tracking) = &status.tracking {
        field("lacking", &lacking(tracking));
    }
    if status.last_sequence.is_some() || status.queue_depth.is_some() {
        field("operations", &operations(status));
    }
    if let Some(latency) = &status.latency {
        let (name, none) = ("latency:", "");
        text += &format!(
            "{name:<INDENT$}{none:<8}{:>10} {:>10} {:>10} {:>10}\n",
            "p50/us", "p99/us", "longest/us", "count"
        );
        for (name, one) in [
            ("local", &latency.local),
            ("wire", &latency.wire),
            ("peer", &latency.peer),
        ] {
            text += &row(name, one);
        }
    }
    for directory in &status.directories {
        let (access, sync) = (word(&directory.access)?, word(&directory.sync)?);
        let durability = word(&directory.durability)?;
        // A path is not cut: it is there to be copied.
        text += &format!(
            "{}\n{:INDENT$}{access}, sync {sync}, durability {durability}\n",
            directory.dir.display(),
            ""
        );
    }
    Ok(text)
}

fn row(name: &str, latency: &Latency) -> String {
    let Latency {
        count,
        p50_us,
        p99_us,
        max_us,
    } = latency;
    format!(
        "{:INDENT$}{name:<8}{p50_us:>10.1} {p99_us:>10.1} {max_us:>10.1} {count:>10}\n",
        ""
    )
}

fn copy(status: &Status) -> anyhow::Result<String> {
    let standing = word(&status.standing)?;
    Ok(match &status.generation {
        Some(generation) => format!("{standing}, generation {generation}"),
        None => format!("{standing}, of no generation yet"),
    })
}

fn peer(status: &Status) -> &'static str {
    match (status.connected, status.in_sync, status.repairing) {
        (true, _, true) => "connected, repairing: not in sync",
        (true, true, false) => "connected, in sync",
        (true, false, false) => "connected, not in sync",
        (false, true, _) => "not connected, in sync: the session goes on if it comes back",
        (false, false, _) => "not connected",
    }
}

/// What the next copy to the other node begins with.
fn lacking(tracking: &Tracking) -> String {
    if tracking.everything {
        return "not known: the next copy compares everything".to_owned();
    }
    format!(
        "the other copy lacks changes of {} files and directories, {} of old files",
        tracking.marked_files,
        skctl::progress::bytes(tracking.marked_bytes)
    )
}

fn operations(status: &Status) -> String {
    let number = |value: Option<u64>| value.map_or_else(|| "-".into(), |value| value.to_string());
    let (last, done) = (number(status.last_sequence), number(status.acknowledged_sequence));
    format!(
        "last {last}, acknowledged up to {done}, {} on their way",
        number(status.queue_depth)
    )
}

/// The word that JSON has for `value`.
fn word(value: &impl Serialize) -> anyhow::Result<String> {
    match serde_json::to_value(value)? {
        serde_json::Value::String(word) => Ok(word),
        other => anyhow::bail!("{other} is not a word"),
    }
}

/// `text` in lines of at most `width` characters, broken at spaces; a longer word gets a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use skfs::config::{Durability, SyncMode};
    use skfs::control::status::{Access, Directory, Latencies, Role, Standing, State, SubState};

    fn status() -> Status {
        let latency = Latency {
            count: 4_294_967_295,
            p50_us: 41.25,
            p99_us: 9_999_999.0,
            max_us: 30_000_000.0,
        };
        Status {
            module: "db".into(),
            node: "a".into(),
            version: "0.1.0".into(),
            pid: 4_194_304,
            role: Role::Primary,
            state: State::Prim,
            sub_state: SubState::Transient,
            standing: Standing::UpToDate,
            in_sync: false,
            repairing: false,
            connected: false,
            reason: Some("the secondary made no progress for 10 s; ".repeat(5)),
            generation: Some("00112233445566778899aabbccddeeff".into()),
            last_sequence: Some(u64::MAX),
            acknowledged_sequence: None,
            queue_depth: Some(3),
            copy: None,
            last_copy: None,
            verification: None,
            split_brain: None,
            tracking: None,
            latency: Some(Latencies {
                local: latency.clone(),
                wire: latency.clone(),
                peer: latency,
            }),
            directories: vec![Directory {
                dir: "/var/lib/postgresql".into(),
                sync: SyncMode::Write,
                durability: Durability::Disk,
                access: Access::Mounted,
            }],
        }
    }

    #[test]
    fn a_full_status_fits_80_columns_and_uses_the_words_of_json() {
        let text = render(&status()).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        for expected in [
            "PRIM Transient (primary)",
            "up-to-date",
            "not connected",
            "mounted, sync write",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        assert!(text.contains("acknowledged up to -"), "{text}");
    }

    #[test]
    fn a_word_longer_than_the_line_is_not_cut() {
        assert_eq!(
            wrap("see /a/very/long/path now", 8),
            ["see", "/a/very/long/path", "now"]
        );
        assert_eq!(wrap("", 8), [""]);
    }
}
