//! What was measured: values by test, system and metric, their medians, and how they are written down.

use crate::question::Question;
use crate::system::SystemName;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a value says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Operations of the size in the test's name.
    Iops,
    /// Half of the operations took no longer; of a test with `fsync`, of the `fsync`.
    P50Us,
    /// All but one in a hundred took no longer.
    P99Us,
    /// Millions of bytes.
    MbPerS,
    /// Files, or calls.
    OpsPerS,
    /// Transactions.
    Tps,
    /// Most memory that a daemon ever had, in MiB (`VmHWM`).
    PeakMib,
}

impl Metric {
    /// As it is written down.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Iops => "iops",
            Metric::P50Us => "p50_us",
            Metric::P99Us => "p99_us",
            Metric::MbPerS => "mb_per_s",
            Metric::OpsPerS => "ops_per_s",
            Metric::Tps => "tps",
            Metric::PeakMib => "peak_mib",
        }
    }

    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Metric::Iops | Metric::OpsPerS | Metric::Tps => "1/s",
            Metric::P50Us | Metric::P99Us => "us",
            Metric::MbPerS => "MB/s",
            Metric::PeakMib => "MiB",
        }
    }
}

/// One value of one run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// What it says.
    pub metric: Metric,
    /// In the metric's unit.
    pub value: f64,
}

impl Reading {
    /// A value.
    pub fn new(metric: Metric, value: f64) -> Self {
        Reading { metric, value }
    }
}

/// A line of `latest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which test.
    pub test: String,
    /// What the value says.
    pub metric: String,
    /// Which system.
    pub system: String,
    /// Median of the rounds; null when the row could not run.
    pub value: Option<f64>,
    /// The value's unit.
    pub unit: String,
    /// Least of the rounds.
    pub min: Option<f64>,
    /// Most of the rounds.
    pub max: Option<f64>,
    /// Why there is no value, or why some rounds have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Everything measured in one run of the program.
#[derive(Debug, Default)]
pub struct Results {
    values: BTreeMap<(Question, SystemName, Metric), Vec<f64>>,
    failures: BTreeMap<(Question, SystemName), String>,
}

impl Results {
    /// Adds the values of one run.
    pub fn add(&mut self, question: Question, system: SystemName, readings: &[Reading]) {
        for reading in readings {
            self.values
                .entry((question, system, reading.metric))
                .or_default()
                .push(reading.value);
        }
    }

    /// Notes why a run gave no values. The first reason stays.
    pub fn fail(&mut self, question: Question, system: SystemName, why: String) {
        self.failures.entry((question, system)).or_insert(why);
    }

    /// All lines, in the order of tests, metrics and systems.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for &question in Question::value_variants() {
            for &metric in question.metrics() {
                for &system in SystemName::value_variants() {
                    rows.extend(self.row(question, metric, system));
                }
            }
        }
        rows
    }

    fn row(&self, question: Question, metric: Metric, system: SystemName) -> Option<Row> {
        let values = self.values.get(&(question, system, metric));
        let why = self.failures.get(&(question, system)).cloned();
        if values.is_none() && why.is_none() {
            return None;
        }
        let mut values = values.cloned().unwrap_or_default();
        values.sort_by(f64::total_cmp);
        Some(Row {
            test: question.name(),
            metric: metric.name().to_owned(),
            system: system.name(),
            value: median(&values),
            unit: metric.unit().to_owned(),
            min: values.first().copied(),
            max: values.last().copied(),
            why,
        })
    }
}

/// The middle of sorted values; of two middles, halfway between them.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_values_is_between_the_middle_ones() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_row_has_the_fields_that_others_rely_on() {
        let mut results = Results::default();
        for value in [30.0, 10.0, 20.0] {
            let reading = Reading::new(Metric::Tps, value);
            results.add(Question::SqliteWal, SystemName::Ext4, &[reading]);
        }
        results.fail(
            Question::SqliteWal,
            SystemName::Glusterfs,
            "it is not installed".into(),
        );
        let json = serde_json::to_value(results.rows()).unwrap();
        let expected = serde_json::json!([
            {"test": "sqlite_wal", "metric": "tps", "system": "ext4", "value": 20.0, "unit": "1/s", "min": 10.0,
             "max": 30.0},
            {"test": "sqlite_wal", "metric": "tps", "system": "glusterfs", "value": null, "unit": "1/s",
             "min": null, "max": null, "why": "it is not installed"},
        ]);
        assert_eq!(json, expected);
    }

    #[test]
    fn a_round_that_failed_does_not_take_the_others_away() {
        let mut results = Results::default();
        results.add(
            Question::SqliteWal,
            SystemName::Ext4,
            &[Reading::new(Metric::Tps, 7.0)],
        );
        results.fail(
            Question::SqliteWal,
            SystemName::Ext4,
            "the second round did not end".into(),
        );
        let rows = results.rows();
        assert_eq!(rows[0].value, Some(7.0));
        assert!(rows[0].why.is_some());
    }

    #[test]
    fn metrics_are_named_as_they_are_encoded() {
        for metric in [
            Metric::Iops,
            Metric::P50Us,
            Metric::P99Us,
            Metric::MbPerS,
            Metric::OpsPerS,
            Metric::Tps,
        ] {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
        }
    }
}
