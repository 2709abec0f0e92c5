//! How a copy goes on, in words.

use skfs::control::status::Copy;

/// Progress in one line.
pub fn line(copy: &Copy) -> String {
    let count = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
    let done = copy.bytes_sent.unwrap_or(0) + copy.bytes_skipped.unwrap_or(0);
    let mut text = format!(
        "{} {}: {} of {} files, {} of {} ({} sent)",
        // What is compared or copied: all of it, or what has changed.
        if copy.tracked == Some(true) {
            "resync"
        } else {
            "copying"
        },
        copy.step.as_deref().unwrap_or(""),
        count(copy.files_done),
        count(copy.files_total),
        bytes(done),
        copy.bytes_total.map_or_else(|| "?".to_owned(), bytes),
        bytes(copy.bytes_sent.unwrap_or(0)),
    );
    if let Some(rate) = copy.rate_bytes_per_second {
        text += &format!(", {}/s", bytes(rate as u64));
    }
    if let Some(seconds) = copy.eta_seconds {
        text += &format!(", {} left", duration(seconds));
    }
    if copy.held_back {
        text += ", yielding to the application";
    }
    if copy.paused {
        text += ", paused";
    }
    if let Some(interrupted) = &copy.interrupted {
        text += &format!(", begun anew ({interrupted})");
    }
    text
}

/// A size as people read it.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_it_is() {
        let copy = Copy {
            files_total: Some(20),
            files_done: Some(5),
            bytes_total: Some(3 << 30),
            bytes_sent: Some(1 << 30),
            bytes_skipped: Some(512 << 20),
            rate_bytes_per_second: Some(200.0 * 1024.0 * 1024.0),
            eta_seconds: Some(75.4),
            current: None,
            step: Some("files".into()),
            paused: false,
            limit_bytes_per_second: None,
            interrupted: None,
            hurries: false,
            held_back: true,
            tracked: Some(false),
        };
        assert_eq!(
            line(&copy),
            "copying files: 5 of 20 files, 1.5 GiB of 3.0 GiB (1.0 GiB sent), 200.0 MiB/s, 1 min 15 s left, yielding to the application"
        );
    }
}
