use super::*;
use std::os::unix::fs::PermissionsExt;

fn request(nodes: &[&str]) -> Request {
    Request {
        cluster: None,
        nodes: nodes.iter().map(|node| node.to_string()).collect(),
        days: 30,
    }
}

fn states(report: &Report) -> Vec<State> {
    std::iter::once(report.ca.state)
        .chain(report.nodes.iter().map(|node| node.folder.state))
        .collect()
}

/// Every file and folder below `path` with its content and mode.
fn snapshot(path: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut all = vec![];
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
        if entry.file_type().unwrap().is_dir() {
            all.push((entry.path(), mode, vec![]));
            all.extend(snapshot(&entry.path()));
        } else {
            all.push((entry.path(), mode, fs::read(entry.path()).unwrap()));
        }
    }
    all.sort();
    all
}

fn files(out: &Path, node: &str) -> Tls {
    let folder = out.join(node);
    Tls {
        ca: folder.join("ca.crt"),
        certificate: folder.join("node.crt"),
        key: folder.join("node.key"),
    }
}

#[test]
fn each_node_gets_a_folder_that_its_peers_accept() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("deep/pki");
    let report = init(&out, &request(&["a", "b"])).unwrap();
    assert_eq!(states(&report), [State::Made; 3]);
    assert_eq!(report.cluster, CLUSTER_DEFAULT);
    for node in ["a", "b"] {
        assert_eq!(Identity::examine(&files(&out, node), node).unwrap(), None);
    }
    let of_other = Identity::examine(&files(&out, "a"), "b").unwrap();
    assert!(
        matches!(of_other, Some(Refusal::OtherName { .. })),
        "{of_other:?}"
    );
}

#[test]
fn keys_are_readable_by_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &request(&["a", "b"])).unwrap();
    let mut modes = vec![];
    for (path, mode, content) in snapshot(dir.path()) {
        if content.is_empty() || path.extension().is_some_and(|kind| kind == "key") {
            modes.push((
                path.strip_prefix(dir.path())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
                mode,
            ));
        }
    }
    let expected = [
        ("a", 0o700),
        ("a/node.key", 0o600),
        ("b", 0o700),
        ("b/node.key", 0o600),
        ("ca", 0o700),
        ("ca/ca.key", 0o600),
    ];
    assert_eq!(modes, expected.map(|(path, mode)| (path.to_owned(), mode)));
}

#[test]
fn the_same_command_again_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = init(dir.path(), &request(&["a", "b"])).unwrap();
    let before = snapshot(dir.path());
    let again = init(dir.path(), &request(&["a", "b"])).unwrap();
    assert_eq!(states(&again), [State::Kept; 3]);
    assert_eq!(snapshot(dir.path()), before);
    assert_eq!(again.nodes[0].valid_until, first.nodes[0].valid_until);
}

#[test]
fn a_node_that_is_added_later_has_the_same_ca() {
    let dir = tempfile::tempdir().unwrap();
    let shop = |nodes| Request {
        cluster: Some("shop".into()),
        ..request(nodes)
    };
    init(dir.path(), &shop(&["a", "b"])).unwrap();
    let report = init(dir.path(), &request(&["a", "c"])).unwrap();
    assert_eq!(states(&report), [State::Kept, State::Kept, State::Made]);
    assert_eq!(report.cluster, "shop");
    let cross = Tls {
        ca: dir.path().join("a/ca.crt"),
        ..files(dir.path(), "c")
    };
    assert_eq!(Identity::examine(&cross, "c").unwrap(), None);
}

#[test]
fn a_ca_of_another_cluster_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &request(&["a"])).unwrap();
    let before = snapshot(dir.path());
    let other = Request {
        cluster: Some("other".into()),
        ..request(&["a"])
    };
    let error = init(dir.path(), &other).unwrap_err();
    assert!(matches!(error, PkiError::OtherCluster { .. }), "{error}");
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn a_damaged_ca_or_node_is_refused_and_left_alone() {
    let other = tempfile::tempdir().unwrap();
    init(other.path(), &request(&["a"])).unwrap();
    let damages: [(&str, &str); 5] = [
        ("ca/ca.key", "is not the key"),
        ("ca/ca.crt", "is not the key"),
        ("a/node.key", "cannot use certificate"),
        ("a/ca.crt", "not this cluster's CA"),
        ("a/node.crt", "another CA"),
    ];
    for (file, expected) in damages {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &request(&["a"])).unwrap();
        fs::copy(other.path().join(file), dir.path().join(file)).unwrap();
        if file == "a/node.crt" {
            fs::copy(other.path().join("a/node.key"), dir.path().join("a/node.key")).unwrap();
        }
        let before = snapshot(dir.path());
        let error = init(dir.path(), &request(&["a", "b"])).unwrap_err().to_string();
        assert!(error.contains(expected), "{file}: {error}");
        assert_eq!(snapshot(dir.path()), before, "{file}");

        fs::remove_file(dir.path().join(file)).unwrap();
        let error = init(dir.path(), &request(&["a"])).unwrap_err().to_string();
        assert!(error.contains(file), "{file}: {error}");
    }
}

#[test]
fn a_lost_ca_is_not_replaced_behind_its_nodes() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), &request(&["a"])).unwrap();
    fs::remove_dir_all(dir.path().join("ca")).unwrap();
    let error = init(dir.path(), &request(&["a"])).unwrap_err().to_string();
    assert!(error.contains("its CA is not"), "{error}");
}

#[test]
fn what_a_killed_run_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(".ca.new")).unwrap();
    fs::write(dir.path().join(".ca.new/ca.key"), "half").unwrap();
    init(dir.path(), &request(&["a"])).unwrap();
    assert!(!dir.path().join(".ca.new").exists());
}

#[test]
fn names_that_cannot_work_are_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("pki");
    for nodes in [
        &[][..],
        &["ca"],
        &["a", "A"],
        &["a/b"],
        &["10.0.0.1"],
        &[".."],
        &[""],
        &["a."],
    ] {
        let error = init(&out, &request(nodes)).unwrap_err();
        assert!(matches!(error, PkiError::Name(_)), "{nodes:?}: {error}");
    }
    let bad_cluster = Request {
        cluster: Some("a b".into()),
        ..request(&["a"])
    };
    assert!(matches!(init(&out, &bad_cluster), Err(PkiError::Name(_))));
    assert!(!out.exists());
}

#[test]
fn a_certificate_does_not_outlive_its_ca() {
    let dir = tempfile::tempdir().unwrap();
    let long = Request {
        days: CA_DAYS + 1,
        ..request(&["a"])
    };
    let error = init(dir.path(), &long).unwrap_err();
    assert!(matches!(error, PkiError::Days { .. }), "{error}");
}
