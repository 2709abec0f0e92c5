//! The ratios to the plain disk as bars on a logarithmic scale, in SVG.
//!
//! Written by hand: a chart library would bring fonts and a dozen crates for what are rectangles and words.

use crate::results::{Metric, Row};
use crate::table::{lines_of, ratio};
use std::fmt::Write;

/// Which systems are drawn, with what colours. The plain disk is the line at 1.
const BARS: [(&str, &str); 4] = [
    ("tcp-floor", "#9aa0a6"),
    ("sidekick-write", "#1a73e8"),
    ("sidekick-flush", "#34a853"),
    ("glusterfs", "#e8710a"),
];

const WIDTH: f64 = 900.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 70.0;
const BAR: f64 = 9.0;
const GAP: f64 = 12.0;
/// The scale begins here: what is less is drawn as this.
const RATIO_MIN: f64 = 0.001;
/// And ends here.
const RATIO_MAX: f64 = 10.0;

/// Draws the rates among the rows.
pub fn svg(rows: &[Row], caption: &str) -> String {
    let rates: Vec<(String, String)> = lines_of(rows)
        .into_iter()
        .filter(|(_, metric)| is_rate(metric))
        .filter(|(test, metric)| find(rows, test, metric, "ext4").is_some())
        .collect();
    let group = BAR * BARS.len() as f64 + GAP;
    let bottom = TOP + group * rates.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 40.0);
    svg.text(
        10.0,
        20.0,
        "start",
        15,
        "Speed as a multiple of a plain ext4 directory's (logarithmic)",
    );
    svg.text(10.0, 36.0, "start", 9, caption);
    let mut x = LEFT;
    for (name, colour) in BARS {
        svg.bar(x, 46.0, 10.0, 10.0, colour);
        svg.text(x + 14.0, 55.0, "start", 11, name);
        x += 130.0;
    }
    let mut tick = RATIO_MIN;
    while tick <= RATIO_MAX * 1.001 {
        let colour = if (tick - 1.0).abs() < 1e-6 {
            "#202124"
        } else {
            "#dadce0"
        };
        svg.line(across(tick), TOP - 6.0, bottom, colour);
        svg.text(
            across(tick),
            bottom + 14.0,
            "middle",
            10,
            &format!("{}", (tick * 1000.0).round() / 1000.0),
        );
        tick *= 10.0;
    }
    for (place, (test, metric)) in rates.iter().enumerate() {
        let top = TOP + group * place as f64;
        svg.text(LEFT - 8.0, top + group / 2.0, "end", 11, test);
        for (bar, (system, colour)) in BARS.iter().enumerate() {
            let of = find(rows, test, metric, system);
            let Some(ratio) = ratio(of, find(rows, test, metric, "ext4")) else {
                continue;
            };
            let y = top + BAR * bar as f64;
            let end = across(ratio);
            svg.bar(LEFT, y, (end - LEFT).max(1.0), BAR - 1.0, colour);
            svg.text(end + 4.0, y + BAR - 1.5, "start", 8, &format!("{ratio:.3}"));
        }
    }
    svg.end()
}

fn is_rate(metric: &str) -> bool {
    [Metric::Iops, Metric::MbPerS, Metric::OpsPerS, Metric::Tps]
        .iter()
        .any(|rate| rate.name() == metric)
}

fn find<'a>(rows: &'a [Row], test: &str, metric: &str, system: &str) -> Option<&'a Row> {
    let fits = |row: &&Row| row.test == test && row.metric == metric && row.system == system;
    rows.iter().find(fits).filter(|row| row.value.is_some())
}

/// Where a ratio lies from left to right.
fn across(ratio: f64) -> f64 {
    let decades = (RATIO_MAX / RATIO_MIN).log10();
    let share = (ratio.clamp(RATIO_MIN, RATIO_MAX) / RATIO_MIN).log10() / decades;
    LEFT + share * (WIDTH - LEFT - RIGHT)
}

struct Svg {
    text: String,
}

impl Svg {
    fn new(width: f64, height: f64) -> Self {
        let mut svg = Svg { text: String::new() };
        svg.add(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\">"
        ));
        svg.add(format_args!(
            "<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>"
        ));
        svg
    }

    fn add(&mut self, element: std::fmt::Arguments) {
        // Into a string: it cannot fail.
        let _ = writeln!(self.text, "{element}");
    }

    fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        self.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        ));
    }

    fn line(&mut self, x: f64, top: f64, bottom: f64, colour: &str) {
        self.add(format_args!(
            "<line x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\"/>"
        ));
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, size: u32, text: &str) {
        let text = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{text}</text>"
        ));
    }

    fn end(mut self) -> String {
        self.add(format_args!("</svg>"));
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(metric: &str, system: &str, value: Option<f64>) -> Row {
        Row {
            test: "untar".into(),
            metric: metric.into(),
            system: system.into(),
            value,
            unit: "1/s".into(),
            min: value,
            max: value,
            why: None,
        }
    }

    #[test]
    fn a_ratio_is_placed_by_its_logarithm_and_stays_inside() {
        let (low, one, high) = (across(RATIO_MIN), across(1.0), across(RATIO_MAX));
        assert!(low < one && one < high);
        assert_eq!(across(1e-9), low);
        assert_eq!(across(1e9), high);
        assert!((across(0.1) - across(0.01) - (one - across(0.1))).abs() < 1e-6);
    }

    #[test]
    fn only_rates_with_a_value_have_a_bar() {
        let rows = [
            row("ops_per_s", "ext4", Some(100.0)),
            row("ops_per_s", "sidekick-write", Some(50.0)),
            row("ops_per_s", "glusterfs", None),
            row("p50_us", "ext4", Some(1.0)),
            row("p50_us", "sidekick-write", Some(9.0)),
        ];
        let picture = svg(&rows, "a < b");
        assert_eq!(picture.matches("0.500<").count(), 1);
        assert!(!picture.contains("9.000<") && picture.contains("a &lt; b"));
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    }
}
