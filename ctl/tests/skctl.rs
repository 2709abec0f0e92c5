//! `skctl` as a program: its exit codes and what it prints where.

#![expect(
    clippy::unwrap_used,
    reason = "clippy sees tests in functions marked as such only, not in what they call"
)]

use skfs::control::command::{Command as Order, Refusal, RefusalKind, Reply};
use skfs::control::event::{Event, Reporter, What};
use skfs::control::server::{Commands, Server};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use tokio::sync::broadcast;

fn skctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_skctl"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Carries out `connect`, refuses everything else.
struct OnlyConnect(Reporter);

impl Commands for OnlyConnect {
    async fn call(self: std::sync::Arc<Self>, command: Order) -> Result<Reply, Refusal> {
        match command {
            Order::Connect { .. } => Ok(Reply::Done),
            other => Err(Refusal {
                kind: RefusalKind::WrongRole,
                message: format!("cannot carry out {other:?}: this node is stopped"),
            }),
        }
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

/// A control socket that is served while `client` runs.
fn with_server(client: impl FnOnce(&str, &Reporter)) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let commands = Arc::new(OnlyConnect(Reporter::default()));
    let server = runtime.block_on(async { Server::bind(&socket) }).unwrap();
    let served = commands.clone();
    runtime.spawn(async move { server.serve(served).await });
    client(socket.to_str().unwrap(), &commands.0);
    runtime.shutdown_background();
}

#[test]
fn a_command_that_is_carried_out_exits_0_and_one_that_is_refused_1_with_the_reason() {
    with_server(|socket, _| {
        let done = skctl(&["fs", "--socket", socket, "connect"]);
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        assert!(done.stdout.is_empty() && done.stderr.is_empty());
        let refused = skctl(&[
            "fs",
            "--socket",
            socket,
            "--timeout",
            "20",
            "become-primary",
            "--force",
        ]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stdout.is_empty());
        let reason = text(&refused.stderr);
        assert!(
            reason.contains("force: true") && reason.contains("this node is stopped"),
            "{reason}"
        );
    });
}

#[test]
fn nobody_at_the_socket_exits_3() {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    for socket in [&stale, &dir.path().join("none.sock")] {
        let output = skctl(&["fs", "--socket", socket.to_str().unwrap(), "status"]);
        assert_eq!(output.status.code(), Some(3));
        assert!(text(&output.stderr).contains(socket.to_str().unwrap()));
    }
}

#[test]
fn wrong_usage_exits_2_and_help_names_the_exit_codes() {
    assert_eq!(skctl(&["fs", "status"]).status.code(), Some(2));
    assert_eq!(skctl(&["fs", "--socket", "/x", "explode"]).status.code(), Some(2));
    for help in [&["--help"][..], &["fs", "--help"], &["cluster", "init", "--help"]] {
        let output = skctl(help);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("Exit codes:"), "{help:?}");
    }
}

#[test]
fn events_are_printed_as_they_come_and_a_reader_that_stops_is_no_error() {
    with_server(|socket, reporter| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_skctl"))
            .args(["fs", "--socket", socket, "events", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        // Reported until one is seen: when the subscription is in place cannot be known from here.
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let reporting = reporter.clone();
        let thread = std::thread::spawn(move || {
            let often = std::time::Duration::from_millis(20);
            while stopped.recv_timeout(often) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                reporting.report(What::Warning, "look at this");
            }
        });
        let event: Event = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(
            (event.what, event.message.as_str()),
            (What::Warning, "look at this")
        );
        // Closes the pipe: the next event finds nobody.
        drop(lines);
        let output = child.wait_with_output().unwrap();
        stop.send(()).unwrap();
        thread.join().unwrap();
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(0), String::new())
        );
    });
}

#[test]
fn cluster_init_says_what_it_made_and_that_there_is_nothing_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("pki");
    let init = |more: &[&str]| {
        let fixed = [
            "cluster",
            "init",
            "--node",
            "a",
            "--node",
            "b",
            "--out",
            out.to_str().unwrap(),
        ];
        skctl(&[&fixed, more].concat())
    };
    let first = init(&["--name", "shop"]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert!(text(&first.stdout).contains("CA of cluster shop"));
    assert!(Path::new(&out).join("b/node.key").exists());
    let again = init(&[]);
    assert!(
        text(&again.stdout).contains("Nothing to do"),
        "{}",
        text(&again.stdout)
    );
    let json: serde_json::Value = serde_json::from_slice(&init(&["--json"]).stdout).unwrap();
    assert_eq!(
        (&json["cluster"], &json["ca"]["state"]),
        (&"shop".into(), &"kept".into())
    );
    assert_eq!(
        (&json["nodes"][1]["node"], &json["nodes"][1]["state"]),
        (&"b".into(), &"kept".into())
    );
    let other = init(&["--name", "other"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(
        text(&other.stderr).contains("is the CA of cluster \"shop\""),
        "{}",
        text(&other.stderr)
    );
}
