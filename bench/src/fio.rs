//! `fio` on the working host, and what it reports.
//!
//! One job at queue depth 1, blocking calls through the page cache: what most applications do.

use crate::ground::{Ground, WORKER};
use crate::results::{Metric, Reading};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

/// What `fio` is to do.
#[derive(Debug)]
pub struct Job<'a> {
    /// The file.
    pub file: &'a Path,
    /// `read`, `write`, `randread` or `randwrite`.
    pub pattern: &'static str,
    /// Bytes of one call.
    pub block: &'static str,
    /// Bytes of the file.
    pub bytes: u64,
    /// How long it runs.
    pub end: End,
    /// Further options.
    pub options: &'a [&'a str],
}

/// When a job ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// After this time, going over the file as often as that takes.
    After(Duration),
    /// When every block was visited once, at the latest after this time.
    Once(Duration),
}

/// Of `fio`'s JSON, the parts that are used.
#[derive(Debug, Deserialize)]
pub struct Report {
    jobs: Vec<JobReport>,
}

#[derive(Debug, Deserialize)]
struct JobReport {
    read: Direction,
    write: Direction,
    sync: SyncReport,
}

#[derive(Debug, Deserialize)]
struct Direction {
    iops: f64,
    bw_bytes: f64,
    total_ios: u64,
    clat_ns: Latency,
}

#[derive(Debug, Deserialize)]
struct SyncReport {
    lat_ns: Latency,
}

#[derive(Debug, Default, Deserialize)]
struct Latency {
    #[serde(default)]
    percentile: Percentiles,
}

#[derive(Debug, Default, Deserialize)]
struct Percentiles {
    #[serde(rename = "50.000000")]
    p50: Option<f64>,
    #[serde(rename = "99.000000")]
    p99: Option<f64>,
}

impl Job<'_> {
    /// Runs it on the working host.
    ///
    /// # Errors
    /// When `fio` fails or reports something that is not understood.
    pub fn run(&self, ground: &Ground) -> Result<Report> {
        let (file, size) = (
            format!("--filename={}", self.file.display()),
            format!("--size={}", self.bytes),
        );
        let (pattern, block) = (format!("--rw={}", self.pattern), format!("--bs={}", self.block));
        let (End::After(limit) | End::Once(limit)) = self.end;
        let runtime = format!("--runtime={}ms", limit.as_millis());
        let mut line = vec![
            "fio",
            "--name=bench",
            "--ioengine=psync",
            "--thread",
            "--output-format=json",
            "--percentile_list=50:99",
            "--fallocate=none",
            &file,
            &size,
            &pattern,
            &block,
            &runtime,
        ];
        if matches!(self.end, End::After(_)) {
            line.push("--time_based");
        }
        line.extend(self.options);
        parse(&ground.run(WORKER, &line)?)
    }
}

/// Reads the report; notes that `fio` prints before it are skipped.
fn parse(text: &str) -> Result<Report> {
    let start = text.find('{').context("fio printed no report")?;
    let report: Report = serde_json::from_str(&text[start..]).context("fio's report is not understood")?;
    anyhow::ensure!(!report.jobs.is_empty(), "fio's report has no job");
    Ok(report)
}

impl Report {
    /// Operations per second and their latency; of a job with `fsync` after each write, that of the `fsync`.
    pub fn operations(&self) -> Vec<Reading> {
        let job = &self.jobs[0];
        let direction = job.busy();
        let latency = match &job.sync.lat_ns.percentile {
            synced if synced.p50.is_some() => synced,
            _ => &direction.clat_ns.percentile,
        };
        let microseconds = |metric, nanoseconds: Option<f64>| {
            nanoseconds.map(|nanoseconds| Reading::new(metric, nanoseconds / 1000.0))
        };
        let mut readings = vec![Reading::new(Metric::Iops, direction.iops)];
        readings.extend(microseconds(Metric::P50Us, latency.p50));
        readings.extend(microseconds(Metric::P99Us, latency.p99));
        readings
    }

    /// Bytes per second.
    pub fn throughput(&self) -> Vec<Reading> {
        vec![Reading::new(Metric::MbPerS, self.jobs[0].busy().bw_bytes / 1e6)]
    }
}

impl JobReport {
    fn busy(&self) -> &Direction {
        if self.read.total_ios > 0 {
            &self.read
        } else {
            &self.write
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sync: &str) -> String {
        format!(
            r#"fio: this platform does not support something
            {{"fio version": "fio-3.33", "jobs": [{{"jobname": "bench",
            "read": {{"iops": 0.0, "bw_bytes": 0, "total_ios": 0, "clat_ns": {{"min": 0}}}},
            "write": {{"iops": 1000.5, "bw_bytes": 4098048, "total_ios": 5002,
                "clat_ns": {{"min": 9, "percentile": {{"50.000000": 2100, "99.000000": 9000}}}}}},
            "sync": {{"total_ios": 0, "lat_ns": {{"min": 0 {sync}}}}}}}]}}"#
        )
    }

    #[test]
    fn operations_and_their_latency_are_of_the_direction_that_ran() {
        let readings = parse(&report("")).unwrap().operations();
        let expected = [
            Reading::new(Metric::Iops, 1000.5),
            Reading::new(Metric::P50Us, 2.1),
            Reading::new(Metric::P99Us, 9.0),
        ];
        assert_eq!(readings, expected);
    }

    #[test]
    fn with_fsync_the_latency_is_that_of_the_fsync() {
        let text = report(r#", "percentile": {"50.000000": 120000, "99.000000": 900000}"#);
        let readings = parse(&text).unwrap().operations();
        assert_eq!(readings[1], Reading::new(Metric::P50Us, 120.0));
        assert_eq!(readings[2], Reading::new(Metric::P99Us, 900.0));
    }

    #[test]
    fn throughput_counts_millions_of_bytes() {
        let readings = parse(&report("")).unwrap().throughput();
        assert_eq!(readings, [Reading::new(Metric::MbPerS, 4.098048)]);
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        assert!(parse("fio: no such file").is_err());
        assert!(parse(r#"{"jobs": []}"#).is_err());
        assert!(parse(r#"{"jobs": [{}]}"#).is_err());
    }
}
