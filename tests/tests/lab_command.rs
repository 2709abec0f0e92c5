//! The program `lab` as a script sees it: exit codes and output. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use serde_json::Value;
use std::process::{Command, Output};

/// A lab of this test's own, removed at the end.
struct Script {
    name: String,
}

impl Script {
    fn new(name: &str) -> Script {
        Script {
            name: format!("{name}-{}", std::process::id()),
        }
    }

    fn lab(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lab"))
            .args(["--lab", &self.name])
            .args(line.split_ascii_whitespace())
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed, and gives its output.
    fn done(&self, line: &str) -> String {
        let output = self.lab(line);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lab {line}: {}: {errors}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with this code, and gives what it said.
    fn fails(&self, code: i32, line: &str) -> String {
        let output = self.lab(line);
        assert_eq!(output.status.code(), Some(code), "lab {line}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.lab("down");
    }
}

#[test]
fn a_failover_from_a_script() {
    let script = Script::new("script");
    let dir = format!("/srv/{}", script.name);
    script.done("up --hosts a,b,c");
    script.done("up --hosts a,b,c");
    script.done(&format!(
        "mirror {dir} --sync flush --durability memory --peer-stall 1s"
    ));
    script.done("wait a PRIM");
    script.done("wait b second");
    script.done("wait a in-sync");
    script.done(&format!("exec a -- touch {dir}/file"));
    assert!(
        script
            .done(&format!("verify {dir}"))
            .ends_with(" 0 differences\n")
    );

    let status: Value = serde_json::from_str(&script.done("status --json")).unwrap();
    assert_eq!(status["lab"], script.name);
    assert_eq!(status["links"].as_array().unwrap().len(), 6);
    let mirror = &status["hosts"][0]["mirrors"][0];
    assert_eq!(mirror["dir"], dir);
    assert_eq!(mirror["state"], "PRIM");
    assert_eq!(mirror["sync"], "flush");
    assert_eq!(mirror["durability"], "memory");
    assert_eq!(mirror["copy"], Value::Null);
    assert!(status["hosts"][0]["pids"]["skfs"].is_u64());
    assert_eq!(status["hosts"][2]["mirrors"], Value::Array(Vec::new()));

    script.done("kill a");
    script.done("promote b");
    script.done("wait b ALONE");
    script.done(&format!("exec b -- test -e {dir}/file"));
    let events = script.done("events b --json --until went-alone");
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(event["what"]["kind"].is_string() && event["dir"] == dir, "{line}");
    }
    let status: Value = serde_json::from_str(&script.done("status --json")).unwrap();
    assert_eq!(status["hosts"][0]["alive"], false);
    assert_eq!(status["hosts"][0]["mirrors"][0]["state"], Value::Null);
    script.done("start a");
    script.done(&format!("exec b -- rm {dir}/file"));
    script.done("down");
    script.done("down");
}

#[test]
fn failures_have_codes_and_say_what_to_do() {
    let script = Script::new("failures");
    assert!(script.fails(1, "status").contains("make it with"));
    script.done("up");
    script.fails(2, "wait a READY");
    script.fails(2, "slow a b --loss 200%");
    script.fails(2, "no-such-command");
    assert!(
        script
            .fails(1, "wait a PRIM")
            .contains("make one with `lab mirror DIR`")
    );
    assert!(script.fails(1, "cut a nobody").contains("only a, b"));
    assert!(script.fails(1, "powercut a").contains("--volatile"));
    assert!(script.fails(1, "up --hosts x").contains("other hosts (a,b)"));
    assert!(
        script
            .fails(1, "mirror relative")
            .contains("not an absolute path")
    );
    assert!(script.fails(1, "verify /srv").contains("not mirrored"));
    assert!(
        script
            .fails(1, "kill a no-such-program")
            .contains("no no-such-program runs")
    );
    assert_eq!(script.lab("exec a -- false").status.code(), Some(1));
    let late = script.fails(125, "exec a --timeout 50ms -- sleep 100");
    assert!(late.contains("not within 50ms"), "{late}");
    script.done("freeze b");
    assert!(script.fails(125, "exec b -- true").contains("thaw it first"));
    script.done("thaw b");
    script.done("exec b -- true");
}
