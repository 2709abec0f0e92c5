//! The table: a line for each test and metric, a column for each system, each value with its ratio to the plain disk,
//! and below it how Sidekick compares with GlusterFS.

use crate::results::Row;
use crate::system::SystemName;
use clap::ValueEnum;
use std::collections::BTreeSet;

/// As text for a terminal.
pub fn text(rows: &[Row]) -> String {
    let systems: Vec<String> = SystemName::value_variants()
        .iter()
        .map(|system| system.name())
        .filter(|name| rows.iter().any(|row| row.system == *name))
        .collect();
    let mut lines = vec![head(&systems)];
    for (test, metric) in lines_of(rows) {
        let of = |system: &str| {
            rows.iter()
                .find(|row| row.test == test && row.metric == metric && row.system == system)
        };
        lines.push(line(
            &test,
            &metric,
            systems.iter().map(|system| cell(of(system), of("ext4"))),
        ));
        if of("glusterfs").and_then(|row| row.value).is_some() {
            let over = systems
                .iter()
                .map(|system| over_glusterfs(system, of(system), of("glusterfs")));
            lines.push(line("", "over glusterfs", over));
        }
    }
    let mut text = shown(&lines);
    text.push_str("(in brackets: the ratio to ext4 in the same run)\n");
    for (why, places) in reasons(rows) {
        text.push_str(&format!("no value for {}: {why}\n", places.join(", ")));
    }
    text
}

/// The value of `row` as a multiple of that of `base`.
pub fn ratio(row: Option<&Row>, base: Option<&Row>) -> Option<f64> {
    let (value, base) = (row?.value?, base?.value?);
    (base > 0.0).then(|| value / base)
}

/// Tests and metrics, in the order of the rows.
pub fn lines_of(rows: &[Row]) -> Vec<(String, String)> {
    let mut seen = BTreeSet::new();
    let names = rows.iter().map(|row| (row.test.clone(), row.metric.clone()));
    names.filter(|name| seen.insert(name.clone())).collect()
}

fn head(systems: &[String]) -> Vec<String> {
    line("test", "metric", systems.iter().cloned())
}

fn line(test: &str, metric: &str, cells: impl Iterator<Item = String>) -> Vec<String> {
    let mut line = vec![test.to_owned(), metric.to_owned()];
    line.extend(cells);
    line
}

fn cell(row: Option<&Row>, ext4: Option<&Row>) -> String {
    let Some(row) = row else { return String::new() };
    let Some(value) = row.value else { return "-".into() };
    match ratio(Some(row), ext4) {
        Some(ratio) if row.system != "ext4" => format!("{} ({})", number(value), number(ratio)),
        _ => number(value),
    }
}

fn over_glusterfs(system: &str, row: Option<&Row>, glusterfs: Option<&Row>) -> String {
    match ratio(row, glusterfs) {
        Some(ratio) if system.starts_with("sidekick") => format!("{}x", number(ratio)),
        _ => String::new(),
    }
}

/// Three digits say enough.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn shown(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate();
        let padded: Vec<String> = cells
            .map(|(column, (cell, &width))| match column {
                0 | 1 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Each reason once, with the rows that it is the reason of.
fn reasons(rows: &[Row]) -> Vec<(String, Vec<String>)> {
    let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        let Some(why) = &row.why else { continue };
        let place = format!("{} {}", row.test, row.system);
        match reasons.iter_mut().find(|(known, _)| known == why) {
            Some((_, places)) if places.contains(&place) => {}
            Some((_, places)) => places.push(place),
            None => reasons.push((why.clone(), vec![place])),
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(system: &str, value: Option<f64>) -> Row {
        Row {
            test: "untar".into(),
            metric: "ops_per_s".into(),
            system: system.into(),
            value,
            unit: "1/s".into(),
            min: value,
            max: value,
            why: value.is_none().then(|| "it is not installed".into()),
        }
    }

    #[test]
    fn ratios_are_to_the_plain_disk_and_to_glusterfs() {
        let rows = [
            row("ext4", Some(2000.0)),
            row("sidekick-write", Some(500.0)),
            row("glusterfs", Some(100.0)),
        ];
        let text = text(&rows);
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[1].contains("2000") && lines[1].contains("500 (0.25)") && lines[1].contains("100 (0.050)")
        );
        assert!(lines[2].contains("over glusterfs") && lines[2].contains("5.00x"));
    }

    #[test]
    fn a_row_that_could_not_run_is_a_dash_and_says_why_below() {
        let rows = [row("ext4", Some(2000.0)), row("glusterfs", None)];
        let text = text(&rows);
        assert!(text.lines().nth(1).unwrap().ends_with('-'));
        assert!(text.contains("no value for untar glusterfs: it is not installed"));
        assert!(!text.contains("over glusterfs"));
    }

    #[test]
    fn nothing_is_a_multiple_of_nothing() {
        let (none, zero, one) = (row("a", None), row("b", Some(0.0)), row("c", Some(1.0)));
        assert_eq!(ratio(Some(&one), Some(&zero)), None);
        assert_eq!(ratio(Some(&one), Some(&none)), None);
        assert_eq!(ratio(Some(&zero), Some(&one)), Some(0.0));
    }
}
