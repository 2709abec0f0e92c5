//! GlusterFS as Debian ships it: two bricks, replica 2, its FUSE client on the working host.
//!
//! Each host has its own mount namespace, so that the directories in which GlusterFS insists on keeping its state
//! are covered there by the host's own.

use super::System;
use crate::ground::{Ground, PEER, WORKER};
use anyhow::{Context, Result, ensure};
use lab::wait::{self, Look};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

const START_MAX: Duration = Duration::from_secs(60);
/// The volume's name.
pub const VOLUME: &str = "bench";
/// Where its programs keep their state, sockets and logs. All of `/run`, because some of them know no other place for
/// the socket that takes commands.
const COVERED: [&str; 3] = ["/var/lib/glusterd", "/run", "/var/log/glusterfs"];
/// Beside Debian's defaults: a lost node is noticed and healed soon, and one node of two may go on.
const OPTIONS: [(&str, &str); 3] = [
    ("cluster.quorum-type", "none"),
    ("network.ping-timeout", "5"),
    ("cluster.heal-timeout", "5"),
];

/// A volume, mounted.
#[derive(Debug)]
pub struct Glusterfs {
    directory: PathBuf,
}

impl Glusterfs {
    /// Starts a `glusterd` on each host, makes the volume and mounts it.
    ///
    /// # Errors
    /// When it is not installed or something does not start.
    pub fn up(ground: &Ground) -> Result<Self> {
        ensure!(
            Path::new("/usr/sbin/glusterd").exists(),
            "it is not installed; `packaging/setup.sh bench` does it"
        );
        for host in [WORKER, PEER] {
            start(ground, host)?;
        }
        let peer = ground.address(PEER)?.to_string();
        gluster(ground, &["peer", "probe", &peer])?;
        wait::until(START_MAX, "the glusterds are connected", || {
            Ok(match gluster(ground, &["peer", "status"]) {
                Ok(text) if text.contains("Peer in Cluster (Connected)") => Look::Holds(()),
                Ok(text) => Look::NotYet(text),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })?;
        let mut bricks = Vec::new();
        for host in [WORKER, PEER] {
            let brick = brick(ground, host)?;
            bricks.push(format!("{}:{}", ground.address(host)?, brick.display()));
        }
        gluster(
            ground,
            &[
                "volume", "create", VOLUME, "replica", "2", &bricks[0], &bricks[1], "force",
            ],
        )?;
        for (option, value) in OPTIONS {
            gluster(ground, &["volume", "set", VOLUME, option, value])?;
        }
        gluster(ground, &["volume", "start", VOLUME])?;
        let directory = ground.directory(WORKER, "glusterfs")?;
        let (server, volume) = (
            format!("--volfile-server={}", ground.address(WORKER)?),
            format!("--volfile-id={VOLUME}"),
        );
        let mounted = directory.to_string_lossy();
        ground.run(WORKER, &["glusterfs", &server, &volume, "--acl", &mounted])?;
        wait::until(START_MAX, "the volume is mounted", || {
            Ok(match ground.run(WORKER, &["stat", "-f", "-c", "%T", &mounted]) {
                Ok(kind) if kind.trim() == "fuseblk" || kind.trim() == "fuse" => Look::Holds(()),
                Ok(kind) => Look::NotYet(kind),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })?;
        Ok(Glusterfs { directory })
    }
}

impl System for Glusterfs {
    fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Where a host keeps its copy.
///
/// # Errors
/// When it cannot be made.
pub fn brick(ground: &Ground, host: &str) -> Result<PathBuf> {
    ground.directory(host, "brick")
}

/// The administration's command on the working host.
///
/// # Errors
/// When it fails, with what it said.
pub fn gluster(ground: &Ground, arguments: &[&str]) -> Result<String> {
    ground.run(WORKER, &[&["gluster", "--mode=script"], arguments].concat())
}

fn start(ground: &Ground, host: &str) -> Result<()> {
    let own = ground.lab.host_directory(host).join("glusterfs");
    let shell = |script: &str| ground.run(host, &["sh", "-ec", script]);
    for covered in COVERED {
        let cover = own.join(covered.trim_start_matches('/').replace('/', "-"));
        shell(&format!("mkdir -p {covered} {}", cover.display()))?;
        if covered == COVERED[0] {
            // What the package ships there is read by the programs.
            let ships = format!(
                "for part in groups hooks; do [ ! -e {covered}/$part ] || cp -a {covered}/$part {}; done",
                cover.display()
            );
            shell(&ships)?;
        }
        shell(&format!("mount --bind {} {covered}", cover.display()))?;
    }
    let volfile = own.join("glusterd.vol");
    let address = ground.address(host)?;
    // Debian's own file, but for the address and the port range.
    let text = format!(
        "volume management\n    type mgmt/glusterd\n    option working-directory {}\n    \
         option transport-type socket\n    option transport.socket.bind-address {address}\n    \
         option transport.socket.keepalive-time 10\n    \
         option transport.socket.keepalive-interval 2\n    \
         option transport.socket.read-fail-log off\n    \
         option transport.socket.listen-port 24007\n    \
         option ping-timeout 0\n    \
         option event-threads 1\n    option base-port 49152\nend-volume\n",
        COVERED[0]
    );
    std::fs::write(&volfile, text).with_context(|| format!("cannot write {}", volfile.display()))?;
    let line: Vec<OsString> = vec![
        "/usr/sbin/glusterd".into(),
        "--no-daemon".into(),
        format!("--volfile={}", volfile.display()).into(),
    ];
    let daemon = ground.spawn(host, "glusterd", line)?;
    let what = format!("glusterd answers on host {host}");
    wait::until(START_MAX, &what, || {
        if !daemon.process.lives() {
            return lab::error::refused(format!("glusterd of host {host} has ended"));
        }
        Ok(
            match ground.run(host, &["gluster", "--mode=script", "pool", "list"]) {
                Ok(_) => Look::Holds(()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            },
        )
    })?;
    Ok(())
}
