//! What the lab promises by itself, before any mirror runs on it. Needs root.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::disk::ext4::DiskOptions;
use lab::error::Attempt;
use lab::process::ProcessId;
use lab::{Lab, LabOptions, wait};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Long enough for a frame that is on its way, short enough to wait for one that is not.
const SILENCE: Duration = Duration::from_millis(150);
const LIMIT: Duration = Duration::from_secs(30);

/// A UDP socket on a host. A socket stays in the network namespace it was made in.
struct Station {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Station {
    fn on(lab: &Lab, host: &str) -> Station {
        let address = lab.host(host).picture().unwrap().address;
        let socket = lab
            .host(host)
            .within(|| UdpSocket::bind((address, 0)).attempt(|| "bind a socket".into()))
            .unwrap();
        Station {
            address: socket.local_addr().unwrap(),
            socket,
        }
    }

    fn hears_from(&self, other: &Station) -> bool {
        other.socket.send_to(b"hello", self.address).unwrap();
        self.socket.set_read_timeout(Some(SILENCE)).unwrap();
        match self.socket.recv(&mut [0; 16]) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn round_trip(&self, other: &Station) -> Duration {
        for station in [self, other] {
            station.socket.set_read_timeout(Some(LIMIT)).unwrap();
        }
        let start = Instant::now();
        self.socket.send_to(b"ping", other.address).unwrap();
        other.socket.recv(&mut [0; 16]).unwrap();
        other.socket.send_to(b"pong", self.address).unwrap();
        self.socket.recv(&mut [0; 16]).unwrap();
        start.elapsed()
    }
}

fn output_of(lab: &Lab, host: &str, script: &str) -> String {
    let output = lab
        .host(host)
        .command("sh")
        .unwrap()
        .args(["-c", script])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_command_has_the_callers_input_output_exit_code_and_signals() {
    let lab = Lab::up(&["a", "b"]).unwrap();
    let mut child = lab
        .host("a")
        .command("sh")
        .unwrap()
        .args(["-c", "hostname; cat; echo problem >&2; exit 42"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(output.stdout, b"a\nthrough\n");
    assert_eq!(output.stderr, b"problem\n");

    let status = |program: &str, arguments: &[&str]| {
        let mut command = lab.host("b").command(program).unwrap();
        command
            .args(arguments)
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .code()
    };
    assert_eq!(status("sh", &["-c", "kill -9 $$"]), Some(128 + 9));
    assert_eq!(status("/no/such/program", &[]), Some(127));
    assert_eq!(status("/etc/passwd", &[]), Some(126));
    let unknown = lab
        .host("nobody")
        .command("true")
        .unwrap()
        .stderr(Stdio::null())
        .status();
    assert_eq!(unknown.unwrap().code(), Some(125));

    let blocked = output_of(&lab, "a", "grep SigBlk /proc/self/status");
    assert_eq!(blocked.split_whitespace().last(), Some("0000000000000000"));

    let mut waiting = lab
        .host("a")
        .command("sh")
        .unwrap()
        .args(["-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    waiting.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    // SAFETY: the child was not waited for, so the pid is its own.
    unsafe { libc::kill(waiting.id() as libc::pid_t, libc::SIGTERM) };
    assert_eq!(waiting.wait().unwrap().code(), Some(5));
}

#[test]
fn hosts_have_processes_shared_memory_and_names_of_their_own() {
    let lab = Lab::up(&["a", "b"]).unwrap();
    assert_eq!(output_of(&lab, "b", "hostname"), "b");
    output_of(&lab, "a", "echo x > /dev/shm/mine");
    assert_eq!(output_of(&lab, "b", "ls /dev/shm"), "");
    let sleeper = lab.host("a").command("sleep").unwrap().arg("1000").spawn();
    let mut sleeper = sleeper.unwrap();
    let runs =
        |host: &lab::keeper::protocol::HostPicture| host.processes.iter().any(|(_, name)| name == "sleep");
    lab.host("a").wait_for("sleep runs", runs).unwrap();
    assert!(!runs(&lab.host("b").picture().unwrap()));
    assert_eq!(output_of(&lab, "b", "pgrep sleep || echo none"), "none");
    lab.host("a").kill_program("sleep").unwrap();
    assert_eq!(sleeper.wait().unwrap().code(), Some(128 + 9));
    assert!(lab.host("a").kill_program("sleep").is_err());
}

#[test]
fn a_cut_stops_what_it_says_and_heals() {
    let lab = Lab::up(&["a", "b", "c"]).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|host| Station::on(&lab, host));
    let pairs = || {
        let heard = |to: &Station, from: &Station| to.hears_from(from);
        [heard(&b, &a), heard(&a, &b), heard(&b, &c), heard(&c, &a)]
    };
    assert_eq!(pairs(), [true; 4]);
    lab.cut_one_way("a", "b").unwrap();
    assert_eq!(pairs(), [false, true, true, true]);
    lab.cut("b", "c").unwrap();
    assert_eq!(pairs(), [false, true, false, true]);
    // Of one host's cuts only.
    lab.heal_host("a").unwrap();
    assert_eq!(pairs(), [true, true, false, true]);
    lab.heal().unwrap();
    assert_eq!(pairs(), [true; 4]);
    assert!(lab.cut("a", "nobody").is_err());
    assert!(lab.cut("a", "a").is_err());
}

#[test]
fn a_slow_link_takes_its_time_and_adds_to_a_cut() {
    let lab = Lab::up(&["a", "b"]).unwrap();
    let [a, b] = ["a", "b"].map(|host| Station::on(&lab, host));
    a.round_trip(&b);
    lab.slow("a", "b", Duration::from_millis(20), 0.0).unwrap();
    a.round_trip(&b);
    let slow = a.round_trip(&b);
    assert!(
        (Duration::from_millis(40)..Duration::from_millis(200)).contains(&slow),
        "{slow:?}"
    );
    lab.cut_one_way("b", "a").unwrap();
    assert!(!a.hears_from(&b));
    assert!(b.hears_from(&a));
    let faults = lab.look().unwrap().faults;
    let cut = faults.iter().find(|fault| fault.cut).unwrap();
    assert_eq!((cut.from.as_str(), cut.delay), ("b", Duration::from_millis(20)));
    lab.heal().unwrap();
    assert_eq!(lab.look().unwrap().faults, []);
    a.round_trip(&b);
    let fast = a.round_trip(&b);
    assert!(fast < Duration::from_millis(20), "{fast:?}");
}

#[test]
fn a_lossy_link_loses_the_share_asked_for_and_tcp_gets_through_unharmed() {
    let lab = Lab::up(&["a", "b"]).unwrap();
    let [a, b] = ["a", "b"].map(|host| Station::on(&lab, host));
    a.round_trip(&b);
    lab.slow_one_way("a", "b", Duration::ZERO, 0.3).unwrap();
    let heard = (0..200).filter(|_| {
        a.socket.send_to(b"once", b.address).unwrap();
        b.socket
            .set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        b.socket.recv(&mut [0; 16]).is_ok()
    });
    let heard = heard.count();
    assert!((100..180).contains(&heard), "{heard} of 200");

    lab.slow("a", "b", Duration::from_millis(1), 0.01).unwrap();
    let data: Vec<u8> = (0..4u32 << 20).map(|index| (index % 251) as u8).collect();
    let listener = lab
        .host("b")
        .within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 4000)).attempt(|| "listen".into()))
        .unwrap();
    let mut stream = lab
        .host("a")
        .within(|| TcpStream::connect((b.address.ip(), 4000)).attempt(|| "connect".into()))
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stream.write_all(&data).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
        assert!(got == data, "{} bytes arrived", got.len());
    });
}

#[test]
fn big_segments_of_a_running_connection_survive_the_change_to_the_relay_and_back() {
    let lab = Lab::up(&["a", "b"]).unwrap();
    let listener = lab
        .host("b")
        .within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 4000)).attempt(|| "listen".into()))
        .unwrap();
    let address = lab.host("b").picture().unwrap().address;
    let mut stream = lab
        .host("a")
        .within(|| TcpStream::connect((address, 4000)).attempt(|| "connect".into()))
        .unwrap();
    let piece = vec![7; 1 << 20];
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut got = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
            got
        });
        for round in 0..20 {
            if round % 5 == 4 {
                lab.slow("a", "b", Duration::from_micros(100), 0.0).unwrap();
            }
            stream.write_all(&piece).unwrap();
            if round % 5 == 0 {
                lab.heal().unwrap();
            }
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let got = reader.join().unwrap();
        assert_eq!(got.len(), 20 << 20);
        assert!(got.iter().all(|byte| *byte == 7));
    });
}

#[test]
fn a_frozen_host_stands_still_until_it_is_thawed() {
    let lab = Lab::up(&["a", "b"]).unwrap();
    let mut counting = lab
        .host("a")
        .command("sh")
        .unwrap()
        .args(["-c", "n=0; while :; do n=$((n+1)); echo $n; done"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = counting.stdout.take().unwrap();
    output.read_exact(&mut [0; 100]).unwrap();
    lab.host("a").freeze().unwrap();
    let picture = lab.host("a").picture().unwrap();
    assert!(picture.frozen && !picture.processes.is_empty());
    for (process, name) in &picture.processes {
        assert!(process.is_still(), "{name} runs");
    }
    let refused = lab
        .host("a")
        .command("true")
        .unwrap()
        .stderr(Stdio::null())
        .status();
    assert_eq!(refused.unwrap().code(), Some(125));
    output_of(&lab, "b", "true");
    lab.host("a").thaw().unwrap();
    assert!(!lab.host("a").picture().unwrap().frozen);
    let mut rest = vec![0; 1 << 20]; // more than a pipe holds: it was written after the thaw
    output.read_exact(&mut rest).unwrap();
    lab.host("a").freeze().unwrap();
    lab.host("a").kill().unwrap();
    assert_eq!(counting.wait().unwrap().code(), Some(128 + 9));
}

#[test]
fn a_killed_host_is_silent_and_comes_back_without_its_processes() {
    let lab = Lab::up(&["a", "b"]).unwrap();
    kill_and_boot(&lab);
    // Again with the relay in place of the bridge.
    lab.slow("a", "b", Duration::from_micros(10), 0.0).unwrap();
    kill_and_boot(&lab);
}

fn kill_and_boot(lab: &Lab) {
    let b = Station::on(lab, "b");
    {
        let a = Station::on(lab, "a");
        assert!(b.hears_from(&a));
    }
    output_of(
        lab,
        "a",
        "touch /dev/shm/gone; setsid sleep 1000 > /dev/null 2>&1 &",
    );
    let before = lab.host("a").picture().unwrap();
    assert_eq!(before.processes.len(), 1);
    lab.host("a").kill().unwrap();
    assert!(!before.processes[0].0.lives());
    assert!(lab.host("a").picture().unwrap().init.is_none());
    let refused = lab
        .host("a")
        .command("true")
        .unwrap()
        .stderr(Stdio::null())
        .status();
    assert_eq!(refused.unwrap().code(), Some(125));
    lab.host("a").kill().unwrap();
    lab.host("a").boot().unwrap();
    assert_eq!(
        output_of(lab, "a", "ls /dev/shm; pgrep sleep || echo none"),
        "none"
    );
    let a = Station::on(lab, "a");
    wait::until_true(LIMIT, "b hears a again", || b.hears_from(&a)).unwrap();
}

#[test]
fn a_small_disk_is_full_when_it_is_full_and_can_be_seen_from_outside() {
    let lab = Lab::up(&["a", "b"]).unwrap();
    let options = DiskOptions {
        size_bytes: 32 << 20,
        volatile: false,
    };
    lab.host("a").make_disk(options).unwrap();
    assert!(lab.host("a").make_disk(options).is_err());
    let disk = lab.backing("a", Path::new("/x")).unwrap();
    let mut file = File::create(&disk).unwrap();
    let piece = vec![1; 1 << 20];
    let written = (0..64).take_while(|_| file.write_all(&piece).is_ok()).count();
    assert!((16..32).contains(&written), "{written} MiB");
    drop(file);
    // The host sees the same disk, before and after a restart, and no other host does.
    let inside = lab.host_directory("a").join("disk/x");
    let script = format!("stat -c %s {} 2>/dev/null || echo none", inside.display());
    let size = fs::metadata(&disk).unwrap().len().to_string();
    assert_eq!(output_of(&lab, "a", &script), size);
    lab.host("a").kill().unwrap();
    lab.host("a").boot().unwrap();
    assert_eq!(output_of(&lab, "a", &script), size);
    assert_eq!(output_of(&lab, "b", &script), "none");
    lab.host("b").kill().unwrap();
    lab.host("b").boot().unwrap();
    assert_eq!(output_of(&lab, "b", &script), "none");
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_a_part_of_the_rest() {
    const BLOCKS: u64 = 200;
    let lab = Lab::up(&["a"]).unwrap();
    assert!(lab.host("a").cut_power(1).is_err());
    let options = DiskOptions {
        size_bytes: 64 << 20,
        volatile: true,
    };
    lab.host("a").make_disk(options).unwrap();
    let path = |name: &str| lab.backing("a", &Path::new("/").join(name)).unwrap();
    let synced = File::create(path("synced")).unwrap();
    synced.write_all_at(&[1; 1 << 20], 0).unwrap();
    synced.sync_all().unwrap();
    let blocks = File::create(path("blocks")).unwrap();
    blocks.write_all_at(&vec![1; BLOCKS as usize * 4096], 0).unwrap();
    blocks.sync_all().unwrap();
    File::open(path("blocks").parent().unwrap())
        .unwrap()
        .sync_all()
        .unwrap();
    drop((synced, blocks));

    // These reach the disk's cache, past the page cache, and are never flushed.
    let direct = File::options()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path("blocks"))
        .unwrap();
    let aligned = Aligned([2; 4096]);
    for block in 0..BLOCKS {
        direct.write_all_at(&aligned.0, block * 4096).unwrap();
    }
    fs::write(path("unsynced"), b"never reaches the disk").unwrap();
    drop(direct);
    let cut = lab.host("a").cut_power(7).unwrap();
    assert!(cut.kept > 0 && cut.dropped > 0, "{cut:?}");
    assert!(lab.host("a").picture().unwrap().init.is_none());

    assert_eq!(fs::read(path("synced")).unwrap(), [1; 1 << 20]);
    let after = fs::read(path("blocks")).unwrap();
    let new = after.chunks(4096).filter(|block| *block == [2; 4096]).count();
    let old = after.chunks(4096).filter(|block| *block == [1; 4096]).count();
    assert_eq!(new + old, BLOCKS as usize);
    assert!(new > 0 && old > 0, "{new} blocks are new, {old} are old");
    assert_eq!(fs::read(path("unsynced")).unwrap_or_default(), b"");
    lab.host("a").boot().unwrap();
    lab.host("a").cut_power(8).unwrap();
}

/// O_DIRECT wants its buffers aligned.
#[repr(align(4096))]
struct Aligned([u8; 4096]);

#[test]
fn a_lab_that_is_removed_leaves_nothing() {
    let (name, directory, processes) = {
        let lab = Lab::up(&["a", "b"]).unwrap();
        for host in ["a", "b"] {
            let options = DiskOptions {
                size_bytes: 16 << 20,
                volatile: host == "b",
            };
            lab.host(host).make_disk(options).unwrap();
            output_of(&lab, host, "setsid sleep 1000 > /dev/null 2>&1 &");
        }
        lab.slow("a", "b", Duration::from_millis(1), 0.0).unwrap();
        let picture = lab.look().unwrap();
        let mut processes = vec![picture.keeper];
        for host in picture.hosts {
            processes.extend(host.init);
            processes.extend(host.processes.iter().map(|(process, _)| *process));
        }
        (lab.name().to_owned(), lab.directory().to_owned(), processes)
    };
    assert_eq!(processes.len(), 5);
    assert_nothing_is_left(&name, &directory, &processes);
}

#[test]
fn a_lab_is_removed_after_a_panic() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let lab = Lab::up(&["a"]).unwrap();
        let keeper = lab.look().unwrap().keeper;
        sender
            .send((lab.name().to_owned(), lab.directory().to_owned(), keeper))
            .unwrap();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    let (name, directory, keeper) = receiver.recv().unwrap();
    assert_nothing_is_left(&name, &directory, &[keeper]);
}

#[test]
fn hosts_end_with_a_keeper_that_is_killed_and_down_removes_the_rest() {
    let lab = Lab::up(&["a", "b"]).unwrap();
    let options = DiskOptions {
        size_bytes: 32 << 20,
        volatile: true,
    };
    lab.host("a").make_disk(options).unwrap();
    // Served by the keeper itself: what is not written yet must not keep the disk mounted.
    fs::write(lab.backing("a", Path::new("/dirty")).unwrap(), [1; 1 << 20]).unwrap();
    output_of(&lab, "a", "setsid sleep 1000 > /dev/null 2>&1 &");
    let picture = lab.look().unwrap();
    picture.keeper.kill(LIMIT).unwrap();
    let hosts: Vec<ProcessId> = picture
        .hosts
        .iter()
        .flat_map(|host| {
            host.init
                .into_iter()
                .chain(host.processes.iter().map(|(process, _)| *process))
        })
        .collect();
    assert_eq!(hosts.len(), 3);
    wait::until_true(LIMIT, "all processes of the hosts are dead", || {
        !hosts.iter().any(|process| process.lives())
    })
    .unwrap();
    assert!(Lab::open(lab.name(), LIMIT).is_err());
    let (name, directory) = (lab.name().to_owned(), lab.directory().to_owned());
    drop(lab);
    assert_nothing_is_left(&name, &directory, &hosts);
}

#[test]
fn a_lab_ends_with_its_owner() {
    let mut owner = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let name = format!("orphan-{}", std::process::id());
    let lab = Lab::make(&LabOptions {
        name: name.clone(),
        hosts: vec!["a".into()],
        mtu: lab::MTU,
        limit: LIMIT,
        owner: Some(ProcessId::of(owner.id()).unwrap()),
    })
    .unwrap();
    let picture = lab.look().unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    picture.keeper.wait_for_end().unwrap();
    let processes = [picture.keeper, picture.hosts[0].init.unwrap()];
    assert_nothing_is_left(&name, lab.directory(), &processes);
}

#[test]
fn a_lab_that_is_up_is_not_made_again_and_not_taken_for_another() {
    let lab = Lab::up(&["a", "b"]).unwrap();
    let again = |hosts: &[&str]| {
        Lab::make(&LabOptions {
            name: lab.name().to_owned(),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            mtu: lab::MTU,
            limit: LIMIT,
            owner: None,
        })
    };
    let keeper = lab.look().unwrap().keeper;
    assert_eq!(again(&["a", "b"]).unwrap().look().unwrap().keeper, keeper);
    let refusal = again(&["a", "c"]).unwrap_err().to_string();
    assert!(refusal.contains("other hosts (a,b)"), "{refusal}");
    assert!(Lab::up(&["a", "a"]).is_err());
    assert!(Lab::up(&["../x"]).is_err());
    assert!(Lab::up(&[]).is_err());
    Lab::down("never-was-there", LIMIT).unwrap();
}

fn assert_nothing_is_left(name: &str, directory: &Path, processes: &[ProcessId]) {
    for process in processes {
        assert!(!process.lives(), "{process:?} {:?} lives", process.comm());
    }
    assert!(!directory.exists(), "{} is left", directory.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(name), "{mounts}");
    let loops = fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    let left: Vec<_> = loops.filter(|file| file.contains(name)).collect();
    assert!(left.is_empty(), "{left:?}");
}
