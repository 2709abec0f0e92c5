//! Mounting, being in the way, unmounting, dying.

use crate::scene::{Scene, own_mount_namespace, wait_for};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use skfs::config::SyncMode;
use skfs::mount::error::MountError;
use skfs::mount::mountinfo::{self, Device};
use skfs::mount::{cover, holders, leftovers, over};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command};

type Outcome = anyhow::Result<()>;

/// A process that does nothing until it is dropped.
struct Idle(Child);

impl Idle {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        Ok(Idle(command.spawn()?))
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        // The same.
        let _ = self.0.wait();
    }
}

#[test]
fn the_mount_table_shows_type_and_module() -> Outcome {
    let mut scene = Scene::new(SyncMode::Write)?;
    let mounts = mountinfo::mounts()?;
    let top = mountinfo::top_at(&scene.dir, &mounts).expect("it is mounted");
    assert_eq!(
        (top.kind.as_str(), top.source.as_str()),
        ("fuse.sidekick", "sidekick:local")
    );
    assert_eq!(top.device, scene.mounted.device());
    scene.mounted.unmount()?;
    assert_eq!(mountinfo::top_at(&scene.dir, &mountinfo::mounts()?), None);
    Ok(())
}

#[test]
fn what_was_written_is_in_the_directory_after_an_unmount() -> Outcome {
    for sync in [SyncMode::Write, SyncMode::Flush] {
        let mut scene = Scene::new(sync)?;
        fs::write(scene.dir.join("file"), "content")?;
        scene.mounted.unmount()?;
        assert_eq!(fs::read_to_string(scene.dir.join("file"))?, "content");
        assert!(*scene.mounted.ended().borrow());
    }
    Ok(())
}

#[test]
fn a_busy_mount_names_who_holds_it_and_goes_on() -> Outcome {
    let mut scene = Scene::new(SyncMode::Write)?;
    fs::create_dir(scene.dir.join("inside"))?;
    let idle = Idle::start(
        Command::new("sleep")
            .arg("600")
            .current_dir(scene.dir.join("inside")),
    )?;
    let error = scene.mounted.unmount().expect_err("somebody is inside");
    let MountError::Busy { holders, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(holders.len(), 1, "{error}");
    assert_eq!(
        (holders[0].pid, &holders[0].what),
        (idle.0.id(), &holders::Use::WorkingDirectory)
    );
    fs::write(scene.dir.join("file"), "it goes on")?;
    drop(idle);
    scene.mounted.unmount()?;
    Ok(())
}

#[test]
fn a_copy_of_the_mount_elsewhere_does_not_keep_it_alive() -> Outcome {
    let mut scene = Scene::new(SyncMode::Write)?;
    let _idle = Idle::start(Command::new("unshare").args(["--mount", "sleep", "600"]))?;
    scene.mounted.unmount()?;
    assert!(*scene.mounted.ended().borrow(), "the session has ended");
    Ok(())
}

#[test]
fn an_abort_fails_whoever_uses_the_mount() -> Outcome {
    let mut scene = Scene::new(SyncMode::Write)?;
    fs::write(scene.dir.join("file"), vec![7; 1 << 20])?;
    let mut file = fs::File::open(scene.dir.join("file"))?;
    scene.mounted.abort()?;
    fs::write(scene.backing.join("file"), "the backing directory is still there")?;
    let failed = fs::metadata(scene.dir.join("file")).map(|status| status.len())?;
    assert_eq!(failed, 36, "the path leads to the directory itself again");
    file.set_len(3)
        .expect_err("the file was opened through the mount");
    let mut byte = [0];
    // Cached pages may still be read.
    let _ = file.read(&mut byte);
    Ok(())
}

#[test]
fn an_unmount_from_outside_is_noticed() -> Outcome {
    let mut scene = Scene::new(SyncMode::Write)?;
    rustix::mount::unmount(&scene.dir, rustix::mount::UnmountFlags::empty())?;
    let ended = scene.mounted.ended();
    wait_for("the session ends", || *ended.borrow());
    scene.mounted.unmount()?;
    Ok(())
}

#[test]
fn a_dead_mount_is_cleared_and_a_living_one_is_not() -> Outcome {
    let mut scene = Scene::new(SyncMode::Write)?;
    let error = leftovers::clear(&scene.dir).expect_err("it is served");
    assert!(matches!(error, MountError::StillServed { .. }), "{error}");
    scene.mounted.unmount()?;

    let backing = over::open_backing(&scene.dir)?;
    let unserved = over::mount_over(&scene.dir, "local", &backing)?;
    // What a killed process leaves behind.
    drop(unserved.device);
    fs::metadata(scene.dir.join("x")).expect_err("nobody answers");
    leftovers::clear(&scene.dir)?;
    leftovers::clear(&scene.dir)?;
    fs::write(scene.dir.join("x"), "it is a directory again")?;
    Ok(())
}

#[test]
fn a_covered_directory_cannot_be_changed() -> Outcome {
    own_mount_namespace()?;
    let directory = tempfile::tempdir()?;
    let dir = directory.path();
    fs::write(dir.join("file"), "content")?;
    cover::cover(dir)?;
    cover::cover(dir)?;
    let refused = fs::write(dir.join("file"), "other").expect_err("it is covered");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read_to_string(dir.join("file"))?, "content");
    assert!(matches!(
        over::open_backing(dir),
        Err(MountError::ReadOnly { .. })
    ));
    cover::uncover(dir)?;
    cover::uncover(dir)?;
    fs::write(dir.join("file"), "other")?;
    Ok(())
}

#[test]
fn who_works_in_the_directory_before_the_mount_is_found() -> Outcome {
    own_mount_namespace()?;
    let directory = tempfile::tempdir()?;
    let device = Device::of(directory.path())?;
    assert_eq!(holders::of_directory(directory.path(), device), []);
    let idle = Idle::start(Command::new("sleep").arg("600").current_dir(directory.path()))?;
    let found = holders::of_directory(directory.path(), device);
    assert_eq!(
        found.iter().map(|holder| holder.pid).collect::<Vec<_>>(),
        [idle.0.id()]
    );
    Ok(())
}

#[test]
fn mounts_inside_the_directory_are_not_crossed() -> Outcome {
    own_mount_namespace()?;
    let directory = tempfile::tempdir()?;
    let inside = directory.path().join("inside");
    fs::create_dir(&inside)?;
    rustix::mount::mount(
        "tmpfs",
        &inside,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None,
    )?;
    fs::write(inside.join("other"), "another file system")?;
    let backing = over::open_backing(directory.path())?;
    let through = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&backing).to_string());
    assert_eq!(fs::read_dir(through.join("inside"))?.count(), 0);
    assert_eq!(
        fs::metadata(through.join("inside"))?.dev(),
        fs::metadata(directory.path())?.dev()
    );
    // Or the temporary directory could not be removed.
    rustix::mount::unmount(&inside, rustix::mount::UnmountFlags::DETACH)?;
    Ok(())
}

trait OfPath: Sized {
    fn of(path: &Path) -> anyhow::Result<Self>;
}

impl OfPath for Device {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let device = fs::metadata(path)?.dev();
        Ok(Device {
            major: rustix::fs::major(device),
            minor: rustix::fs::minor(device),
        })
    }
}

#[test]
fn applications_may_open_more_files_than_the_daemon() -> Outcome {
    const FILES: usize = 1500;
    const DAEMON: usize = 1024;
    // The daemon of this test learns of a lower limit than this process, which is its application as well.
    let limit = getrlimit(Resource::Nofile);
    let of = |current| Rlimit { current, ..limit };
    setrlimit(Resource::Nofile, of(Some(DAEMON as u64)))?;
    let scene = Scene::new(SyncMode::Write)?;
    setrlimit(Resource::Nofile, of(limit.maximum))?;

    let path = |number: usize| scene.dir.join(number.to_string());
    let mut files = Vec::new();
    for number in 0..FILES {
        let file = fs::File::create_new(path(number))?;
        file.write_all_at(number.to_string().as_bytes(), 0)?;
        drop(file);
        files.push(fs::File::open(path(number))?);
    }
    let unlinked: Vec<_> = (0..FILES).map(|number| fs::remove_file(path(number))).collect();
    assert!(unlinked.iter().filter(|unlinked| unlinked.is_ok()).count() > DAEMON / 5);
    // What is open without a name needs a descriptor each. No more of them than leave some for the rest.
    let refused = unlinked.iter().find_map(|unlinked| unlinked.as_ref().err());
    let errno = refused.and_then(std::io::Error::raw_os_error);
    assert_eq!(errno, Some(rustix::io::Errno::NFILE.raw_os_error()));
    let daemons = fs::read_dir("/proc/self/fd")?.count() - files.len();
    assert!(daemons < DAEMON, "{daemons} descriptors");
    for (number, file) in files.iter().enumerate() {
        // Past the kernel's cache, so that the daemon has to read.
        rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?;
        let mut buffer = [0; 8];
        let length = file.read_at(&mut buffer, 0)?;
        assert_eq!(&buffer[..length], number.to_string().as_bytes());
    }
    // Room again once they are closed.
    drop(files);
    wait_for("the kernel forgets them", || {
        (0..FILES).all(|number| fs::remove_file(path(number)).is_ok() || !path(number).exists())
    });
    Ok(())
}
