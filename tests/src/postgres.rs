//! A PostgreSQL server on a host of the lab, and clients that know exactly what was committed.
//!
//! The server listens on a Unix socket only, in a directory outside the mirror that every host sees; so clients
//! run beside the hosts and survive them.

use anyhow::{Context, bail, ensure};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A server's directories. The same values serve on every host: only one runs at a time.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// Data directory, on the mirror.
    pub data: PathBuf,
    /// Socket and server log, outside the mirror.
    pub run: PathBuf,
}

/// The directory with the programs of the newest PostgreSQL that Debian's packages installed.
///
/// # Errors
/// When there is none.
pub fn programs() -> anyhow::Result<PathBuf> {
    let base = Path::new("/usr/lib/postgresql");
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(base)
        .with_context(|| {
            format!(
                "cannot list {}: is postgresql installed? (packaging/setup.sh test)",
                base.display()
            )
        })?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            path.join("bin/postgres")
                .exists()
                .then(|| (version, path.join("bin")))
        })
        .collect();
    versions.sort();
    versions
        .pop()
        .map(|(_, path)| path)
        .context("no PostgreSQL server below /usr/lib/postgresql")
}

/// The numbers of the user that the server runs as (it refuses root).
fn server_user() -> anyhow::Result<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let line = passwd
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .context("no user postgres")?;
    let fields: Vec<&str> = line.split(':').collect();
    match fields[..] {
        [_, _, uid, gid, ..] => Ok((uid.parse()?, gid.parse()?)),
        _ => bail!("the line of postgres in /etc/passwd is cut"),
    }
}

impl Postgres {
    /// Prepares the directories: `data` below the mirror's `dir`, `run` anywhere outside it.
    pub fn new(dir: &Path, run: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(run)?;
        let (uid, gid) = server_user()?;
        chown(run, Some(uid), Some(gid))?;
        Ok(Postgres {
            data: dir.join("pg"),
            run: run.to_owned(),
        })
    }

    /// Makes `program` of PostgreSQL (or of the system) run as the server's user; `enter` makes commands that
    /// run on the wanted host.
    fn as_server(
        &self,
        enter: &dyn Fn(&str) -> anyhow::Result<Command>,
        program: &Path,
    ) -> anyhow::Result<Command> {
        let (uid, gid) = server_user()?;
        let mut command = enter("setpriv")?;
        command
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={gid}"))
            .args(["--clear-groups", "--"])
            .arg(program)
            .current_dir("/")
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Makes a new database cluster. `enter` is the host's.
    pub fn init(&self, enter: &dyn Fn(&str) -> anyhow::Result<Command>) -> anyhow::Result<()> {
        let (uid, gid) = server_user()?;
        run(enter("install")?
            .args(["-d", "-m", "0700", "-o"])
            .arg(uid.to_string())
            .arg("-g")
            .arg(gid.to_string())
            .arg(&self.data))?;
        run(self
            .as_server(enter, &programs()?.join("initdb"))?
            .args([
                "--auth=trust",
                "--username=postgres",
                "--data-checksums",
                "--no-instructions",
                "-D",
            ])
            .arg(&self.data))
    }

    /// Starts the server and waits until it answers (crash recovery included).
    pub fn start(&self, enter: &dyn Fn(&str) -> anyhow::Result<Command>) -> anyhow::Result<()> {
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=on -c synchronous_commit=on \
             -c full_page_writes=on -c max_connections=40 -c shared_buffers=64MB -c log_min_messages=warning",
            self.run.display()
        );
        run(self
            .as_server(enter, &programs()?.join("pg_ctl"))?
            .args(["-w", "-t", "120", "-D"])
            .arg(&self.data)
            .arg("-l")
            .arg(self.run.join("server.log"))
            .arg("-o")
            .arg(options)
            .arg("start"))
        .with_context(|| {
            let log = std::fs::read_to_string(self.run.join("server.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            format!(
                "PostgreSQL does not start; its log ends (newest first): {}",
                tail.join(" | ")
            )
        })
    }

    /// Stops the server, cleanly.
    pub fn stop(&self, enter: &dyn Fn(&str) -> anyhow::Result<Command>) -> anyhow::Result<()> {
        run(self
            .as_server(enter, &programs()?.join("pg_ctl"))?
            .args(["-w", "-t", "120", "-m", "fast", "-D"])
            .arg(&self.data)
            .arg("stop"))
    }

    /// Removes the lock file of a server that died with its host: the process id in it means nothing here, and
    /// might by chance belong to a living process of this machine, which all hosts of the lab share.
    pub fn forget_dead_server(&self, enter: &dyn Fn(&str) -> anyhow::Result<Command>) -> anyhow::Result<()> {
        run(enter("rm")?.arg("-f").arg(self.data.join("postmaster.pid")))?;
        for entry in std::fs::read_dir(&self.run)? {
            let path = entry?.path();
            if path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b".s.PGSQL"))
            {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Checks every table and index against each other.
    pub fn check(&self) -> anyhow::Result<()> {
        run(Command::new(programs()?.join("pg_amcheck"))
            .args([
                "--all",
                "--heapallindexed",
                "--install-missing",
                "-U",
                "postgres",
                "-h",
            ])
            .arg(&self.run)
            .stdin(Stdio::null()))
    }

    /// A client's connection.
    pub fn connect(&self) -> anyhow::Result<postgres::Client> {
        let mut config = postgres::Config::new();
        config
            .host_path(&self.run)
            .user("postgres")
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(5));
        Ok(config.connect(postgres::NoTls)?)
    }
}

/// Runs to the end; the error has what it printed.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Clients that insert rows with ids of their own and write down each id whose COMMIT returned.
#[derive(Debug)]
pub struct Ledger {
    committed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: Vec<std::thread::JoinHandle<anyhow::Result<()>>>,
    log: Arc<Mutex<File>>,
}

impl Ledger {
    /// Makes the table. Once for each database cluster.
    pub fn create_table(server: &Postgres) -> anyhow::Result<()> {
        Ok(server.connect()?.batch_execute(
            "CREATE TABLE ledger (id bigint PRIMARY KEY, client int NOT NULL, filler text NOT NULL);
             CREATE INDEX ledger_client ON ledger (client, id);",
        )?)
    }

    /// Starts `clients` clients; ids continue above `first_id`. An id counts as committed once it is in `log`,
    /// synced, which happens after COMMIT returned.
    pub fn start(server: &Postgres, clients: i32, first_id: i64, log: &Path) -> anyhow::Result<Self> {
        let log = Arc::new(Mutex::new(File::options().create(true).append(true).open(log)?));
        let next = Arc::new(AtomicI64::new(first_id));
        let (committed, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let clients = (0..clients)
            .map(|client| {
                let connection = server.connect()?;
                let (log, next, committed, stop) =
                    (log.clone(), next.clone(), committed.clone(), stop.clone());
                Ok(std::thread::spawn(move || {
                    insert(connection, client, &log, &next, &committed, &stop)
                }))
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Ledger {
            committed,
            stop,
            clients,
            log,
        })
    }

    /// How many ids are committed and written down by now.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::SeqCst)
    }

    /// True when every client has ended, which before a kill means that something went wrong.
    pub fn has_ended(&self) -> bool {
        self.clients.iter().all(std::thread::JoinHandle::is_finished)
    }

    /// Ends the clients (they end by themselves when the server dies) and gives the ids that were committed.
    pub fn finish(self, log: &Path) -> anyhow::Result<BTreeSet<i64>> {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            match client.join() {
                Ok(result) => result?,
                Err(_) => bail!("a client panicked"),
            }
        }
        drop(self.log);
        committed_in(log)
    }
}

/// The ids that clients wrote down as committed.
pub fn committed_in(log: &Path) -> anyhow::Result<BTreeSet<i64>> {
    std::fs::read_to_string(log)?
        .lines()
        .map(|line| Ok(line.parse()?))
        .collect()
}

/// Until told to stop or the connection breaks; other errors are returned.
fn insert(
    mut connection: postgres::Client,
    client: i32,
    log: &Mutex<File>,
    next: &AtomicI64,
    committed: &AtomicU64,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let filler = "sidekick ".repeat(20);
    while !stop.load(Ordering::SeqCst) {
        let id = next.fetch_add(1, Ordering::SeqCst);
        let result = connection.transaction().and_then(|mut transaction| {
            transaction.execute("INSERT INTO ledger VALUES ($1, $2, $3)", &[&id, &client, &filler])?;
            transaction.commit()
        });
        match result {
            Ok(()) => {
                let mut file = log
                    .lock()
                    .map_err(|_| anyhow::anyhow!("another client panicked"))?;
                file.write_all(format!("{id}\n").as_bytes())?;
                file.sync_data()?;
                committed.fetch_add(1, Ordering::SeqCst);
            }
            // The server is gone or going: what was in flight counts as not committed.
            Err(error) if error.is_closed() || error.as_db_error().is_none() => return Ok(()),
            Err(error) if error.code() == Some(&postgres::error::SqlState::ADMIN_SHUTDOWN) => return Ok(()),
            Err(error) => return Err(error).context("an insert was refused"),
        }
    }
    Ok(())
}

/// What became of the committed ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Ids in the log.
    pub committed: usize,
    /// Of these, in the table.
    pub found: usize,
}

impl Count {
    /// Committed and not in the table.
    pub fn lost(self) -> usize {
        self.committed - self.found
    }

    /// Compares the log with the table.
    pub fn take(server: &Postgres, committed: &BTreeSet<i64>) -> anyhow::Result<Self> {
        let present: BTreeSet<i64> = server
            .connect()?
            .query("SELECT id FROM ledger", &[])?
            .iter()
            .map(|row| row.get(0))
            .collect();
        Ok(Count {
            committed: committed.len(),
            found: committed.intersection(&present).count(),
        })
    }
}
