//! What two nodes compare when they meet, before a session may begin: module, directories, modes, what their
//! file systems can do, and the names behind user and group numbers. No I/O except reading the two databases.

use crate::wire::message::{Identities, Offer, Rejection};
use std::collections::HashMap;
use std::path::Path;

/// Most entries of one database that are sent.
const IDENTITIES_MAX: usize = 4096;

/// Refuses what would go wrong later, from the secondary's point of view; returns what a person should know.
///
/// `ours` are the secondary's directories, `theirs` the primary's, in configuration order.
pub fn compare(ours: &[Offer], theirs: &[Offer]) -> Result<Vec<String>, Rejection> {
    if ours.len() != theirs.len() {
        return Err(Rejection::OtherConfiguration(format!(
            "the secondary replicates {} directories, the primary {}",
            ours.len(),
            theirs.len()
        )));
    }
    let mut warnings = Vec::new();
    for (own, peer) in ours.iter().zip(theirs) {
        compare_modes(own, peer)?;
        compare_abilities(own, peer)?;
        // A tenth is what metadata and timing make of equal disks.
        if own.free_bytes < peer.free_bytes / 10 * 9 {
            warnings.push(format!(
                "{}: the secondary has {} MiB free, the primary {} MiB; the secondary will be full first",
                own.dir,
                own.free_bytes >> 20,
                peer.free_bytes >> 20
            ));
        }
    }
    Ok(warnings)
}

fn compare_modes(own: &Offer, peer: &Offer) -> Result<(), Rejection> {
    if own.dir != peer.dir {
        return Err(Rejection::OtherConfiguration(format!(
            "the secondary has directory {}, the primary {} in its place",
            own.dir, peer.dir
        )));
    }
    if own.sync != peer.sync || own.durability != peer.durability {
        return Err(Rejection::OtherConfiguration(format!(
            "{}: sync and durability are {:?}/{:?} on the secondary, {:?}/{:?} on the primary",
            own.dir, own.sync, own.durability, peer.sync, peer.durability
        )));
    }
    if own.exclude != peer.exclude {
        return Err(Rejection::OtherConfiguration(format!(
            "{}: exclude is {:?} on the secondary, {:?} on the primary; the patterns must be the same, in the same order",
            own.dir, own.exclude, peer.exclude
        )));
    }
    Ok(())
}

fn compare_abilities(own: &Offer, peer: &Offer) -> Result<(), Rejection> {
    let (have, need) = (own.abilities, peer.abilities);
    let unfit = |what: String| Err(Rejection::Unfit(format!("{}: {what}", own.dir)));
    if have.name_bytes_max < need.name_bytes_max {
        return unfit(format!(
            "names of {} bytes at most, not {}",
            have.name_bytes_max, need.name_bytes_max
        ));
    }
    if !have.tried || !need.tried {
        return Ok(());
    }
    if have.xattr_bytes_max < need.xattr_bytes_max {
        return unfit(format!(
            "attributes of {} bytes at most, not {}",
            have.xattr_bytes_max, need.xattr_bytes_max
        ));
    }
    if need.acl && !have.acl {
        return unfit("it stores no POSIX ACLs".into());
    }
    if have.time_step_ns > need.time_step_ns {
        return unfit(format!(
            "time stamps in steps of {} ns, not {}",
            have.time_step_ns, need.time_step_ns
        ));
    }
    Ok(())
}

/// This machine's users and groups, from `/etc/passwd` and `/etc/group` (passwd(5), group(5)); entries of other
/// sources (LDAP) are the same on both nodes by nature. An unreadable file gives no entries, hence no warning.
pub fn identities() -> Identities {
    Identities {
        users: database(Path::new("/etc/passwd")),
        groups: database(Path::new("/etc/group")),
    }
}

fn database(path: &Path) -> Vec<(u32, String)> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read the names behind numbers; not compared");
            return Vec::new();
        }
    };
    parse(&String::from_utf8_lossy(&text))
}

/// `name:password:number:...` lines; lines of another shape are skipped, as the C library does.
fn parse(text: &str) -> Vec<(u32, String)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields
                .next()
                .filter(|name| !name.is_empty() && name.len() <= 256)?;
            let number = fields.nth(1)?.parse().ok()?;
            Some((number, name.to_owned()))
        })
        .take(IDENTITIES_MAX)
        .collect()
}

/// Numbers that mean one name here and another at the peer: files would change owners at a failover.
pub fn identity_warnings(ours: &Identities, theirs: &Identities) -> Vec<String> {
    let mut warnings = Vec::new();
    for (kind, own, peer) in [
        ("uid", &ours.users, &theirs.users),
        ("gid", &ours.groups, &theirs.groups),
    ] {
        // The first name of a number counts, as for ls(1).
        let mut names: HashMap<u32, &str> = HashMap::new();
        for (number, name) in peer {
            names.entry(*number).or_insert(name);
        }
        let mut seen = std::collections::HashSet::new();
        for (number, name) in own.iter().filter(|(number, _)| seen.insert(*number)) {
            if let Some(other) = names.get(number).filter(|other| **other != name.as_str()) {
                warnings.push(format!(
                    "{kind} {number} is {name:?} here and {other:?} at the peer"
                ));
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Durability, SyncMode};
    use crate::operation::Timestamp;
    use crate::wire::message::{Abilities, Top};

    fn offer() -> Offer {
        let abilities = Abilities {
            name_bytes_max: 255,
            xattr_bytes_max: 4000,
            acl: true,
            handles: true,
            time_step_ns: 1,
            tried: true,
        };
        Offer {
            dir: "/srv/db".into(),
            sync: SyncMode::Write,
            durability: Durability::Disk,
            empty: true,
            free_bytes: 1 << 30,
            abilities,
            top: Top {
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime: Timestamp {
                    seconds: 0,
                    nanoseconds: 0,
                },
            },
            exclude: vec![],
        }
    }

    #[test]
    fn equal_nodes_meet_without_a_word() {
        assert_eq!(compare(&[offer()], &[offer()]), Ok(vec![]));
    }

    #[test]
    fn a_smaller_secondary_is_a_warning() {
        let small = Offer {
            free_bytes: 1 << 20,
            ..offer()
        };
        assert_eq!(compare(&[small], &[offer()]).unwrap().len(), 1);
    }

    #[test]
    fn other_directories_or_modes_are_refused() {
        for other in [
            Offer {
                dir: "/srv/other".into(),
                ..offer()
            },
            Offer {
                sync: SyncMode::Flush,
                ..offer()
            },
            Offer {
                durability: Durability::Memory,
                ..offer()
            },
            Offer {
                exclude: vec!["*.tmp".into()],
                ..offer()
            },
        ] {
            assert!(matches!(
                compare(&[other], &[offer()]),
                Err(Rejection::OtherConfiguration(_))
            ));
        }
        assert!(matches!(
            compare(&[], &[offer()]),
            Err(Rejection::OtherConfiguration(_))
        ));
    }

    #[test]
    fn a_poorer_file_system_on_the_secondary_is_refused_and_a_richer_one_is_not() {
        let good = offer().abilities;
        for poor in [
            Abilities {
                name_bytes_max: 143,
                ..good
            },
            Abilities {
                xattr_bytes_max: 100,
                ..good
            },
            Abilities { acl: false, ..good },
            Abilities {
                time_step_ns: 1_000_000_000,
                ..good
            },
        ] {
            let poor = Offer {
                abilities: poor,
                ..offer()
            };
            assert!(matches!(
                compare(std::slice::from_ref(&poor), &[offer()]),
                Err(Rejection::Unfit(_))
            ));
            assert_eq!(compare(&[offer()], &[poor]), Ok(vec![]));
        }
    }

    #[test]
    fn numbers_with_other_names_are_reported_once() {
        let ours = Identities {
            users: parse("root:x:0:0::/:\npg:x:100:1::/:\npg2:x:100:1\nbad\n"),
            groups: vec![],
        };
        let theirs = Identities {
            users: parse("root:x:0:0\nwww:x:100:1\nmore:x:7:7\n"),
            groups: vec![],
        };
        let warnings = identity_warnings(&ours, &theirs);
        assert_eq!(warnings, vec!["uid 100 is \"pg\" here and \"www\" at the peer"]);
        assert_eq!(identity_warnings(&ours, &ours), Vec::<String>::new());
    }
}
