//! Ordinary users: owners, groups, set-id bits, ACLs. The same must happen as on a plain directory.

use crate::scene::{Scene, as_user};
use rustix::fs::{FallocateFlags, XattrFlags};
use skfs::config::SyncMode;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

type Outcome = anyhow::Result<()>;

const USER: u32 = 1000;
const GROUP: u32 = 1000;
/// A group the user is in besides its own.
const SECOND: u32 = 2000;
/// A group that it is not in.
const FOREIGN: u32 = 3000;

fn user<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    as_user(USER, GROUP, &[GROUP, SECOND], act)
}

/// Mode, owner and group, or the errno.
fn shown(path: &Path) -> Result<(u32, u32, u32), Option<i32>> {
    let status = fs::symlink_metadata(path).map_err(|error| error.raw_os_error())?;
    Ok((status.mode(), status.uid(), status.gid()))
}

fn errno<T>(result: std::io::Result<T>) -> Result<T, Option<i32>> {
    result.map_err(|error| error.raw_os_error())
}

/// A file of these attributes in `dir`.
fn file(dir: &Path, name: &str, owner: (u32, u32), mode: u32) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, "content").expect("a file");
    chown(&path, Some(owner.0), Some(owner.1)).expect("an owner");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
    path
}

#[test]
fn new_files_belong_to_the_caller_and_obey_its_umask() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        fs::set_permissions(dir, Permissions::from_mode(0o1777)).expect("a sticky directory");
        let made = user(|| {
            let made = [
                errno(fs::write(dir.join("file"), "x")),
                errno(fs::create_dir(dir.join("dir"))),
            ];
            let link = errno(std::os::unix::fs::symlink("file", dir.join("link")));
            (made, link)
        });
        (made, ["file", "dir", "link"].map(|name| shown(&dir.join(name))))
    });
    Ok(())
}

#[test]
fn a_setgid_directory_gives_its_group() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    for group in [SECOND, FOREIGN] {
        scene.same(|dir| {
            let parent = dir.join(format!("of{group}"));
            fs::create_dir(&parent).expect("a directory");
            chown(&parent, None, Some(group)).expect("a group");
            fs::set_permissions(&parent, Permissions::from_mode(0o2777)).expect("setgid");
            user(|| {
                fs::write(parent.join("file"), "x").expect("a file");
                fs::create_dir(parent.join("dir")).expect("a directory");
                let own = parent.join("own");
                fs::write(&own, "x").expect("a file");
                (["file", "dir"].map(|name| shown(&parent.join(name))), {
                    let chmod = errno(fs::set_permissions(&own, Permissions::from_mode(0o2755)));
                    (chmod, shown(&own))
                })
            })
        });
    }
    Ok(())
}

#[test]
fn writing_clears_set_id_bits_of_others_and_not_of_root() -> Outcome {
    type Change = fn(&Path) -> Result<(), Option<i32>>;
    fn write(path: &Path) -> Result<(), Option<i32>> {
        errno(
            OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|file| file.write_all_at(b"x", 0)),
        )
    }
    fn truncate(path: &Path) -> Result<(), Option<i32>> {
        errno(OpenOptions::new().write(true).truncate(true).open(path).map(drop))
    }
    fn cut(path: &Path) -> Result<(), Option<i32>> {
        errno(
            OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|file| file.set_len(3)),
        )
    }
    fn allocate(path: &Path) -> Result<(), Option<i32>> {
        let file = errno(OpenOptions::new().write(true).open(path))?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 100)
            .map_err(|errno| Some(errno.raw_os_error()))
    }
    fn give(path: &Path) -> Result<(), Option<i32>> {
        errno(chown(path, None, Some(SECOND)))
    }
    fn give_to_nobody(path: &Path) -> Result<(), Option<i32>> {
        errno(chown(path, None, None))
    }
    let scene = Scene::new(SyncMode::Write)?;
    let changes: [(&str, Change); 6] = [
        ("write", write),
        ("truncate", truncate),
        ("cut", cut),
        ("allocate", allocate),
        ("give", give),
        ("nothing", give_to_nobody),
    ];
    for (name, change) in changes {
        for mode in [0o6777, 0o2767, 0o4755, 0o0755] {
            for group in [GROUP, SECOND, FOREIGN] {
                scene.same(|dir| {
                    let path = file(dir, &format!("{name}-{mode:o}-{group}"), (USER, group), mode);
                    let by_user = (user(|| change(&path)), shown(&path));
                    let path = file(dir, &format!("root-{name}-{mode:o}-{group}"), (USER, group), mode);
                    (name, mode, group, by_user, change(&path), shown(&path))
                });
            }
        }
    }
    Ok(())
}

/// What docs/semantics.md says of `chown(-1, -1)`: with a writer about it is taken for a write.
#[test]
fn a_stranger_who_changes_the_owner_to_nobody_clears_set_id_bits_while_somebody_has_the_file_open_for_writing()
-> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    let outcome = |dir: &Path, with_writer: bool| {
        let path = file(dir, &format!("tool-{with_writer}"), (0, 0), 0o6755);
        let writer = with_writer.then(|| {
            OpenOptions::new()
                .write(true)
                .open(&path)
                .expect("root may write")
        });
        let refused = user(|| errno(chown(&path, None, None))).err().flatten();
        drop(writer);
        let mode = fs::metadata(&path).expect("its mode").mode() & 0o7777;
        (refused, mode)
    };
    let eperm = rustix::io::Errno::PERM.raw_os_error();
    scene.same(|dir| outcome(dir, false));
    assert_eq!(outcome(&scene.plain, true), (Some(eperm), 0o6755));
    assert_eq!(outcome(&scene.dir, true), (None, 0o755));
    // The writer is gone: nothing is left of it.
    fs::remove_file(scene.dir.join("tool-false"))?;
    assert_eq!(outcome(&scene.dir, false), (Some(eperm), 0o6755));
    Ok(())
}

#[test]
fn strangers_are_refused_as_on_a_plain_directory() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        let private = file(dir, "private", (0, 0), 0o600);
        let ours = file(dir, "ours", (0, SECOND), 0o660);
        fs::create_dir(dir.join("closed")).expect("a directory");
        fs::set_permissions(dir.join("closed"), Permissions::from_mode(0o700)).expect("a mode");
        user(|| {
            [
                errno(fs::read(&private).map(drop)),
                errno(fs::write(&private, "x")),
                errno(fs::read(&ours).map(drop)),
                errno(fs::write(&ours, "x")),
                errno(fs::read_dir(dir.join("closed")).map(drop)),
                errno(fs::remove_file(&private)),
                errno(fs::set_permissions(&ours, Permissions::from_mode(0o777))),
                errno(chown(&ours, Some(USER), None)),
            ]
        })
    });
    Ok(())
}

#[test]
fn trusted_attributes_are_listed_for_root_only() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        let path = file(dir, "file", (USER, GROUP), 0o644);
        for name in ["user.a", "trusted.b"] {
            rustix::fs::setxattr(&path, name, b"v", XattrFlags::empty()).expect("an attribute");
        }
        let list = || {
            let mut names = [0; 200];
            rustix::fs::listxattr(&path, &mut names[..])
        };
        (list(), user(list))
    });
    Ok(())
}

/// `system.posix_acl_access` or `_default` with a named user, as linux/posix_acl_xattr.h lays it out.
fn acl(owner: u16, named: (u32, u16), group: u16, mask: u16, other: u16) -> Vec<u8> {
    let entries = [
        (0x01, owner, u32::MAX),
        (0x02, named.1, named.0),
        (0x04, group, u32::MAX),
        (0x10, mask, u32::MAX),
        (0x20, other, u32::MAX),
    ];
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(u16::to_le_bytes(tag));
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 200];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

#[test]
fn a_default_acl_is_inherited_and_replaces_the_umask() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        let parent = dir.join("parent");
        fs::create_dir(&parent).expect("a directory");
        fs::set_permissions(&parent, Permissions::from_mode(0o777)).expect("a mode");
        rustix::fs::setxattr(&parent, DEFAULT, &acl(7, (USER, 6), 5, 7, 1), XattrFlags::empty())
            .expect("an ACL");
        fs::write(parent.join("file"), "x").expect("a file");
        fs::create_dir(parent.join("dir")).expect("a directory");
        ["file", "dir"].map(|name| {
            let path = parent.join(name);
            (shown(&path), attribute(&path, ACCESS), attribute(&path, DEFAULT))
        })
    });
    Ok(())
}

#[test]
fn an_access_acl_lets_in_whom_it_names_and_goes_with_chmod() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    scene.same(|dir| {
        let path = file(dir, "file", (0, 0), 0o600);
        let before = user(|| errno(fs::read(&path).map(drop)));
        rustix::fs::setxattr(&path, ACCESS, &acl(6, (USER, 4), 0, 4, 0), XattrFlags::empty())
            .expect("an ACL");
        let named = user(|| (errno(fs::read(&path).map(drop)), errno(fs::write(&path, "x"))));
        let with = shown(&path);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
        let masked = user(|| errno(fs::read(&path).map(drop)));
        let after = attribute(&path, ACCESS);
        let removed = rustix::fs::removexattr(&path, ACCESS);
        (before, named, with, masked, after, removed, shown(&path))
    });
    Ok(())
}

#[test]
fn an_acl_set_from_outside_the_group_costs_setgid() -> Outcome {
    let scene = Scene::new(SyncMode::Write)?;
    for group in [SECOND, FOREIGN] {
        scene.same(|dir| {
            let path = file(dir, &format!("file{group}"), (USER, group), 0o2755);
            let value = acl(7, (5, 5), 5, 5, 5);
            let set = user(|| rustix::fs::setxattr(&path, ACCESS, &value, XattrFlags::empty()));
            (set, shown(&path))
        });
    }
    Ok(())
}
