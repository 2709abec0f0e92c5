//! The command line.

use crate::question::Question;
use crate::system::SystemName;
use crate::work::Work;
use clap::{Parser, Subcommand};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Measures Sidekick side by side with a plain disk, a yardstick and GlusterFS: prints a table with ratios and writes
/// latest.json. Needs root. Exit code 0: every row that was asked for has a value or says why it has none.
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// Fewer and shorter runs; ends within five minutes
    #[arg(long)]
    pub quick: bool,
    /// Rounds; the median is reported [default: 3, with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Only this test; may be repeated
    #[arg(long = "test", value_name = "NAME")]
    pub tests: Vec<Question>,
    /// Only this system; may be repeated
    #[arg(long = "system", value_name = "NAME")]
    pub systems: Vec<SystemName>,
    /// Delay each packet between the hosts by this much, in each direction, as 1ms
    #[arg(long, value_name = "DELAY", value_parser = humantime::parse_duration)]
    pub slow: Option<Duration>,
    /// Lose this share of the packets between the hosts, as 1%
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub loss: Option<f64>,
    /// Directory for latest.json and machine.json
    #[arg(long, value_name = "DIRECTORY", default_value = "target/bench")]
    pub out: PathBuf,
    /// Measure nothing: print, and draw, what is in this latest.json, with the machine.json beside it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "rounds", "tests", "systems", "slow", "loss"])]
    pub from: Option<PathBuf>,
    /// Also draw the ratios as an SVG
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,
    #[command(subcommand)]
    pub inner: Option<Inner>,
}

/// What the program starts itself as, on the hosts.
#[derive(Debug, Subcommand)]
pub enum Inner {
    /// Do one piece of work and print what came of it
    #[command(hide = true)]
    Work {
        #[command(subcommand)]
        work: Work,
    },
    /// Serve until killed
    #[command(hide = true)]
    Serve {
        #[command(subcommand)]
        service: Service,
    },
}

/// Programs that stay.
#[derive(Debug, Subcommand)]
pub enum Service {
    /// The mount of tcp-floor.
    Floor {
        #[arg(long)]
        peer: SocketAddr,
        directory: PathBuf,
    },
    /// Its other side.
    FloorPeer {
        #[arg(long)]
        address: IpAddr,
        directory: PathBuf,
    },
    /// Takes QUIC and throws it away.
    QuicSink {
        #[arg(long)]
        address: IpAddr,
        certificate: PathBuf,
    },
}

/// A share as `1%` or `0.01`.
fn share(text: &str) -> Result<f64, String> {
    let problem = || format!("{text:?} is no share: write it as 1% or 0.01");
    let (number, scale) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let share = number.parse::<f64>().map_err(|_| problem())? / scale;
    if (0.0..1.0).contains(&share) {
        Ok(share)
    } else {
        Err(problem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn tests_and_systems_are_named_as_in_the_results() {
        let line = [
            "bench",
            "--test",
            "rand_write_4k",
            "--system",
            "tcp-floor",
            "--slow",
            "5ms",
            "--loss",
            "1%",
        ];
        let arguments = Arguments::try_parse_from(line).unwrap();
        assert_eq!(arguments.tests, [Question::RandWrite4k]);
        assert_eq!(arguments.systems, [SystemName::TcpFloor]);
        assert_eq!(arguments.slow, Some(Duration::from_millis(5)));
        assert_eq!(arguments.loss, Some(0.01));
    }

    #[test]
    fn a_share_is_less_than_one() {
        assert_eq!(share("0.5"), Ok(0.5));
        assert!(share("100%").is_err());
        assert!(share("a bit").is_err());
    }
}
