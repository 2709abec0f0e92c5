//! How a verification goes on and what it found, in words.

use crate::progress::bytes;
use skfs::control::verification::{Difference, Repair, Report, Verification};

/// How far it is, or how it ended, in one line.
pub fn line(verification: &Verification) -> String {
    let Verification {
        running,
        directories,
        files,
        differences,
        repaired,
        ..
    } = verification;
    let mut text = if *running {
        "comparing: ".to_owned()
    } else {
        String::new()
    };
    text += &format!(
        "{directories} directories, {files} files, {} in {:.1} s",
        bytes(verification.bytes),
        verification.seconds
    );
    if let Some(rate) = verification.rate_bytes_per_second {
        text += &format!(", {}/s", bytes(rate as u64));
    }
    text += &match (*differences, verification.repair) {
        (0, _) if *running => ", no difference so far".to_owned(),
        (0, _) if verification.error.is_some() => ", no difference until then".to_owned(),
        (0, _) => ", equal".to_owned(),
        (count, false) => format!(", {count} differences"),
        (count, true) => format!(", {count} differences, {repaired} repaired"),
    };
    if verification.held_back {
        text += ", yielding to the application";
    }
    if verification.paused {
        text += ", paused";
    }
    if let Some(error) = &verification.error {
        text += &format!("; ended before its end: {error}");
    }
    text
}

/// Each difference in a line of its own, then the sum.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    for difference in &report.found {
        text += &one(difference);
        text.push('\n');
    }
    let shown = report.found.len() as u64;
    if shown < report.verification.differences {
        text += &format!(
            "... and {} more, which are in the log of skfs\n",
            report.verification.differences - shown
        );
    }
    text += &line(&report.verification);
    text.push('\n');
    text
}

/// What still differs, as far as it is known.
pub fn left(verification: &Verification) -> u64 {
    verification.differences - verification.repaired.min(verification.differences)
}

fn one(difference: &Difference) -> String {
    let mut text = format!(
        "{}: {}: {}",
        difference.path,
        difference.aspect.as_str(),
        difference.detail
    );
    if difference.ranges.len() > 1 {
        let ranges: Vec<_> = difference
            .ranges
            .iter()
            .take(8)
            .map(|(from, to)| format!("{from}-{to}"))
            .collect();
        text += &format!(" ({}", ranges.join(", "));
        text += match difference.ranges.len() > ranges.len() {
            true => ", ...)",
            false => ")",
        };
    }
    match &difference.repair {
        None => {}
        Some(Repair::Done) => text += "; repaired",
        Some(Repair::Failed { reason }) => text += &format!("; not repaired: {reason}"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use skfs::control::verification::Aspect;

    fn verification() -> Verification {
        Verification {
            directories: 3,
            files: 20,
            bytes: 3 << 20,
            seconds: 1.25,
            ..Verification::default()
        }
    }

    #[test]
    fn a_report_names_each_difference_and_sums_up() {
        let data = Difference {
            path: "/srv/a".into(),
            aspect: Aspect::Data,
            detail: "in blocks with 131072 bytes, the first at byte 0".into(),
            ranges: vec![(0, 65536), (131_072, 196_608)],
            repair: None,
        };
        let mode = Difference {
            path: "/srv/b".into(),
            aspect: Aspect::Mode,
            detail: "0644 here, 0600 there".into(),
            ranges: vec![],
            repair: Some(Repair::Done),
        };
        let report = Report {
            verification: Verification {
                differences: 5,
                repaired: 1,
                repair: true,
                ..verification()
            },
            found: vec![data, mode],
        };
        assert_eq!(
            render(&report),
            "/srv/a: data: in blocks with 131072 bytes, the first at byte 0 (0-65536, 131072-196608)\n\
             /srv/b: mode: 0644 here, 0600 there; repaired\n\
             ... and 3 more, which are in the log of skfs\n\
             3 directories, 20 files, 3.0 MiB in 1.2 s, 5 differences, 1 repaired\n"
        );
        assert_eq!(left(&report.verification), 4);
    }

    #[test]
    fn only_a_whole_verification_says_equal() {
        assert!(line(&verification()).ends_with(", equal"));
        let running = Verification {
            running: true,
            ..verification()
        };
        assert!(line(&running).ends_with(", no difference so far"));
        let cut = Verification {
            error: Some("the pair is not in sync any more".into()),
            ..verification()
        };
        assert!(!line(&cut).contains("equal"), "{}", line(&cut));
    }
}
