//! One module on one node: its role, and everything that a command changes.
//!
//! Changes of role are serialised by `Module::mounts`; `status` and the network never wait for them, they look
//! at `Module::role`, which is replaced whole.

mod archives;
mod demotion;
mod directories;
mod exclusions;
mod meeting;
mod promotion;
mod status;

use crate::backing::{Leftovers, Store};
use crate::config::Config;
use crate::control::command::{Command, Refusal, RefusalKind, Reply};
use crate::control::event::{Event, Reporter, What};
use crate::control::server::Commands;
use crate::control::status::{State, SubState};
use crate::dirty::maps::Maps;
use crate::fuse::Mounted;
use crate::link::Endpoint;
use crate::mount::fusectl;
use crate::receiver::{Notes, Receiver};
use crate::record::Keeper;
use crate::replicator::Replicator;
use crate::session::secondary::Secondary;
use crate::wire::message::Offer;
use anyhow::Context;
use directories::Directories;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, broadcast, watch};
use tracing::debug;

/// What runs on this node now. Cheap to clone.
#[derive(Clone)]
enum Role {
    /// Covered, or open for maintenance.
    Stopped { unlocked: bool },
    /// Holds the copy.
    Secondary(Receiver),
    /// Takes the application's writes.
    Primary(Arc<Replicator>),
}

/// What is known of a mount without asking it.
#[derive(Debug, Clone)]
struct Shown {
    dir: PathBuf,
    connection: Arc<fusectl::Connection>,
    /// Somebody else has taken it away; the cover below it shows.
    gone: bool,
}

/// A module that is served by this process.
pub struct Module {
    config: Config,
    /// Opened before anything was mounted over them.
    directories: Directories,
    role: RwLock<Role>,
    /// Held during every change of role. Not empty only on a primary.
    mounts: Mutex<Vec<Mounted>>,
    /// The same mounts for those who must not wait for a change of role.
    shown: std::sync::Mutex<Vec<Shown>>,
    keeper: Arc<Keeper>,
    maps: Arc<Maps>,
    reporter: Reporter,
    endpoint: Endpoint,
    runtime: Handle,
    announced: std::sync::Mutex<Option<(State, SubState)>>,
    /// What was said of the directories when the present session began. A connection that goes on with it is told
    /// the same: trying again what a file system can do would fail on a full one, where the session may go on.
    session_offers: std::sync::Mutex<Vec<Offer>>,
    stopped: watch::Sender<bool>,
}

impl Module {
    /// Opens the directories, clears what a killed predecessor left, covers them, and listens for the peer.
    pub async fn start(config: Config) -> anyhow::Result<Arc<Self>> {
        let reporter = Reporter::default();
        let (directories, keeper) = tokio::task::block_in_place(|| {
            let directories = Directories::open(&config)?;
            let keeper = Keeper::open(
                &config.state,
                &config.module,
                config.weakest_durability(),
                directories.volumes()?,
            )?;
            exclusions::compare(&config, &keeper, &reporter)?;
            anyhow::Ok((directories, Arc::new(keeper)))
        })?;
        let maps = Arc::new(open_maps(&config, &reporter)?);
        let endpoint = Endpoint::bind(&config).context("cannot begin to listen for the peer")?;
        let module = Arc::new(Module {
            config,
            directories,
            role: RwLock::new(Role::Stopped { unlocked: false }),
            mounts: Mutex::new(Vec::new()),
            shown: std::sync::Mutex::default(),
            keeper,
            maps,
            reporter,
            endpoint,
            runtime: Handle::current(),
            announced: std::sync::Mutex::new(None),
            session_offers: std::sync::Mutex::default(),
            stopped: watch::Sender::new(false),
        });
        tokio::spawn(module.clone().accept());
        module.announce();
        Ok(module)
    }

    /// The module's name.
    pub fn name(&self) -> &str {
        &self.config.module
    }

    /// Returns once the module has stopped as it was told.
    pub async fn stopped(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        if self
            .stopped
            .subscribe()
            .wait_for(|stopped| *stopped)
            .await
            .is_err()
        {
            debug!("the module went away while it was waited for");
        }
    }

    fn role(&self) -> Role {
        self.role.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_role(&self, role: Role) {
        let former = {
            let mut present = self.role.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *present, role)
        };
        // Its store may have a big file to close: nobody waits for that.
        self.runtime.spawn_blocking(move || drop(former));
        self.announce();
    }

    fn shown(&self) -> MutexGuard<'_, Vec<Shown>> {
        // Entries are replaced whole: a panic elsewhere cannot leave one half changed.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A store for a new role: numbers of inodes mean nothing beyond one role.
    fn store(&self, leftovers: Leftovers) -> anyhow::Result<Arc<Store>> {
        let roots: Vec<OwnedFd> = self
            .directories
            .roots
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<Result<_, _>>()
            .context("cannot copy descriptors")?;
        let excluded = self.config.exclusions()?;
        Ok(Arc::new(Store::new(roots)?.excluding(excluded, leftovers)))
    }

    /// Reports every change of a role's phase until it ends or is replaced.
    fn follow<P: Send + Sync + 'static>(self: &Arc<Self>, mut phases: watch::Receiver<P>) {
        let module = Arc::downgrade(self);
        self.runtime.spawn(async move {
            while phases.changed().await.is_ok() {
                let Some(module) = module.upgrade() else { return };
                module.announce();
            }
        });
    }

    async fn become_secondary(self: &Arc<Self>) -> Result<Reply, Refusal> {
        let _changing = self.mounts.lock().await;
        match self.role() {
            Role::Secondary(_) => return Ok(Reply::Done),
            Role::Primary(_) => {
                return Err(refusal(
                    RefusalKind::WrongRole,
                    format!("{} is the primary; demote it first", self.config.node),
                ));
            }
            Role::Stopped { .. } => {}
        }
        tokio::task::block_in_place(|| {
            self.refuse_overlaps()?;
            self.cover_or_refuse()?;
            self.warn_of_holders()
        })?;
        let store = self
            .store(Leftovers::GiveWay)
            .map_err(|error| system("open the directories", format!("{error:#}")))?;
        let durability = self
            .config
            .replicate
            .iter()
            .map(|replicate| replicate.durability)
            .collect();
        let receiver = Receiver::new(
            Secondary::new(durability),
            store,
            Notes {
                keeper: self.keeper.clone(),
                maps: self.maps.clone(),
            },
            self.reporter.clone(),
            self.runtime.clone(),
            self.endpoint.executor().clone(),
            &self.config,
        );
        self.follow(receiver.phases());
        self.set_role(Role::Secondary(receiver));
        Ok(Reply::Done)
    }
}

impl Commands for Module {
    async fn call(self: Arc<Self>, command: Command) -> Result<Reply, Refusal> {
        self.carry_out(command).await
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.reporter.subscribe()
    }
}

impl Module {
    /// Carries a command out.
    pub async fn carry_out(self: &Arc<Self>, command: Command) -> Result<Reply, Refusal> {
        match command {
            Command::BecomePrimary {
                ignore_holders,
                force,
            } => self.become_primary(ignore_holders, force).await,
            Command::BecomeSecondary => self.become_secondary().await,
            Command::Connect { overwrite } => self.connect(overwrite).await,
            Command::Copy(order) => self.order_copy(order),
            Command::Verify(order) => self.verify(order).await,
            Command::Archives(order) => self.archives(order).await,
            Command::GoAlone => self.go_alone().await,
            Command::Demote => self.demote(false).await,
            Command::Unlock => self.unlock().await,
            Command::Status => Ok(Reply::Status(Box::new(self.status()))),
            Command::Subscribe => Ok(Reply::Done),
            Command::Stop { abort } => self.stop(abort).await,
        }
    }
}

/// A map that cannot be read is set aside: what differs is then found by comparing everything.
fn open_maps(config: &Config, reporter: &Reporter) -> anyhow::Result<Maps> {
    let opened = Maps::open(&config.state, config.extent_bytes.get());
    let (maps, unreadable) = opened.context("cannot open the dirty map")?;
    if let Some(error) = unreadable {
        reporter.report(What::Warning, format!("{error}; it is set aside"));
    }
    Ok(maps)
}

fn refusal(kind: RefusalKind, message: String) -> Refusal {
    Refusal { kind, message }
}

fn system(attempt: &str, error: impl std::fmt::Display) -> Refusal {
    refusal(RefusalKind::System, format!("cannot {attempt}: {error}"))
}
