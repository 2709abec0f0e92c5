//! One module on one node: its role, and everything that a command changes.
//!
//! Changes of role are serialised by `Module::mounts`; `status` and the network never wait for them, they look
//! at `Module::role`, which is replaced whole.

use crate::admission;
use crate::backing::Store;
use crate::config::Config;
use crate::control::command::{Command, Refusal, RefusalKind, Reply};
use crate::control::event::{Event, Reporter, What};
use crate::control::server::Commands;
use crate::control::status::{
    Access, Directory, Latencies, Role as ShownRole, Standing, State, Status, SubState,
};
use crate::fuse::{MountOptions, Mounted};
use crate::link::{Connection, Endpoint, Purpose};
use crate::mount::mountinfo::{self, Device};
use crate::mount::{cover, fusectl, holders, leftovers, over, teardown};
use crate::receiver::{self, Premises, Receiver};
use crate::record::Keeper;
use crate::replicator::{Replicator, Setup};
use crate::session::primary::Phase;
use crate::session::secondary::{self, Secondary};
use crate::wire::message::{Generation, Hello, Offer, Rejection, Start, ToPrimary, ToSecondary};
use anyhow::Context;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, broadcast, watch};
use tracing::{debug, info, warn};

/// How long a caller may take for its first frame.
const HELLO_TIME_MAX: Duration = Duration::from_secs(5);

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
    /// The directories, opened before anything was mounted over them.
    roots: Vec<OwnedFd>,
    role: RwLock<Role>,
    /// Held during every change of role. Not empty only on a primary.
    mounts: Mutex<Vec<Mounted>>,
    /// The same mounts for those who must not wait for a change of role.
    shown: std::sync::Mutex<Vec<Shown>>,
    keeper: Arc<Keeper>,
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
        let keeper = Arc::new(Keeper::open(&config.state, &config.module)?);
        let roots = tokio::task::block_in_place(|| open_directories(&config))?;
        let endpoint = Endpoint::bind(&config).context("cannot begin to listen for the peer")?;
        let module = Arc::new(Module {
            config,
            roots,
            role: RwLock::new(Role::Stopped { unlocked: false }),
            mounts: Mutex::new(Vec::new()),
            shown: std::sync::Mutex::default(),
            keeper,
            reporter: Reporter::default(),
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
    fn store(&self) -> anyhow::Result<Arc<Store>> {
        let roots: Vec<OwnedFd> = self
            .roots
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<Result<_, _>>()
            .context("cannot copy descriptors")?;
        Ok(Arc::new(Store::new(roots)?))
    }

    async fn become_primary(self: &Arc<Self>, ignore_holders: bool, force: bool) -> Result<Reply, Refusal> {
        let mut mounts = self.mounts.lock().await;
        // What refuses comes first: a node that is refused keeps the role it has.
        let role = self.role();
        if let Role::Primary(_) = role {
            return Ok(Reply::Done);
        }
        let module = self.clone();
        tokio::task::spawn_blocking(move || module.refuse_holders(ignore_holders))
            .await
            .map_err(|error| system("look for programs in the directories", error))??;
        let barred = || match self.keeper.current().bars_primary() {
            Some(reason) if !force => Err(refusal(
                RefusalKind::NotUpToDate,
                format!(
                    "{} cannot become primary: {reason}. Start it as secondary, or, if you know that this copy is the \
                     one to keep, use --force: the other copy then needs a full copy",
                    self.config.node
                ),
            )),
            barred => Ok(barred.is_some()),
        };
        let was_in_sync = match role {
            Role::Secondary(receiver) => {
                if !matches!(receiver.view().phase, secondary::Phase::Serving { .. }) {
                    barred()?;
                }
                let had_session = receiver.leave("it was told to become primary").await;
                self.set_role(Role::Stopped { unlocked: false });
                had_session
            }
            Role::Stopped { .. } | Role::Primary(_) => false,
        };
        tokio::task::block_in_place(|| {
            if was_in_sync {
                self.note_alone("it was in sync when it was told to become primary")
            } else if barred()? {
                self.note_alone("it was forced to become primary")
            } else {
                Ok(())
            }
        })?;
        let module = self.clone();
        let (made, replicator) = tokio::task::spawn_blocking(move || module.mount_all())
            .await
            .map_err(|error| system("mount the directories", error))??;
        *self.shown() = made
            .iter()
            .map(|mount| Shown {
                dir: mount.dir().to_owned(),
                connection: mount.connection(),
                gone: false,
            })
            .collect();
        for mount in &made {
            self.watch(mount);
        }
        *mounts = made;
        self.follow(replicator.phases());
        self.set_role(Role::Primary(replicator));
        Ok(Reply::Done)
    }

    /// Reports when somebody else takes a mount away (`umount` by hand, the kernel). The read-only cover below it
    /// keeps the directory from being changed unseen.
    fn watch(self: &Arc<Self>, mount: &Mounted) {
        let (mut ended, device) = (mount.ended(), mount.device());
        let module = Arc::downgrade(self);
        self.runtime.spawn(async move {
            if ended.wait_for(|ended| *ended).await.is_err() {
                debug!(%device, "a mount went away with its session");
            }
            let Some(module) = module.upgrade() else { return };
            // A change of role that takes it down holds the lock, and has removed it once it lets go.
            let mounts = module.mounts.lock().await;
            if !mounts.iter().any(|mount| mount.device() == device) {
                return;
            }
            let dir = module.shown().iter_mut().find_map(|shown| {
                let found = shown.connection.number() == device;
                shown.gone |= found;
                found.then(|| shown.dir.clone())
            });
            drop(mounts);
            let Some(dir) = dir else { return };
            module.reporter.report(
                What::Warning,
                format!(
                    "the mount over {} was taken away, not by skfs; the directory is read-only until this node is \
                     demoted and becomes primary again",
                    dir.display()
                ),
            );
            module.announce();
        });
    }

    /// Writes down that the other copy lacks data from now on.
    fn note_alone(&self, note: &str) -> Result<(), Refusal> {
        let generation = Generation::random().map_err(|error| system("make a generation", error))?;
        self.keeper
            .update(|record| {
                record.generation = Some(generation);
                record.standing = Standing::UpToDate;
                record.peer_lacks_data = true;
                record.note = Some(note.to_owned());
            })
            .map_err(|error| system("write the record", error))?;
        info!(%generation, note, "goes on alone");
        Ok(())
    }

    /// Mounts every directory, or none.
    fn mount_all(&self) -> Result<(Vec<Mounted>, Arc<Replicator>), Refusal> {
        let store = self
            .store()
            .map_err(|error| system("open the directories", format!("{error:#}")))?;
        let replicator = Replicator::new(Setup {
            config: self.config.clone(),
            store: store.clone(),
            keeper: self.keeper.clone(),
            reporter: self.reporter.clone(),
            runtime: self.runtime.clone(),
        });
        let mut mounted = Vec::new();
        for (root_index, replicate) in self.config.replicate.iter().enumerate() {
            let options = MountOptions {
                module: self.config.module.clone(),
                dir: replicate.dir.clone(),
                root_index,
                sync: replicate.sync,
            };
            // Over the cover, so that there is no moment, at no end of the mount, in which the directory is open.
            let result = cover::cover(&replicate.dir)
                .and_then(|()| Mounted::mount(options, store.clone(), replicator.clone()));
            match result {
                Ok(mount) => mounted.push(mount),
                Err(error) => {
                    for mount in &mut mounted {
                        if let Err(error) = mount.abort() {
                            warn!(%error, "cannot take a mount down again");
                        }
                    }
                    replicator.abandon();
                    self.cover_all();
                    return Err(system("mount", error));
                }
            }
        }
        Ok((mounted, replicator))
    }

    /// What was opened before the mount would go on past it, unseen.
    fn refuse_holders(&self, ignore_holders: bool) -> Result<(), Refusal> {
        for (replicate, root) in self.config.replicate.iter().zip(&self.roots) {
            let status = rustix::fs::fstat(root).map_err(|errno| system("look at the directory", errno))?;
            let found = holders::of_directory(&replicate.dir, Device::of_status(status.st_dev));
            if found.is_empty() {
                continue;
            }
            let message = format!(
                "{} is in use from before the mount by {}; what they write would not be replicated",
                replicate.dir.display(),
                holders::list(&found)
            );
            if !ignore_holders {
                let message = format!("{message}. End them, or use --ignore-holders if they only read");
                return Err(refusal(RefusalKind::Holders, message));
            }
            self.reporter.report(What::Warning, message);
        }
        Ok(())
    }

    /// What was opened for writing before the cover can still change the copy unseen; who only reads does no harm,
    /// and which it is cannot be told for all. So nobody is refused.
    fn warn_of_holders(&self) -> Result<(), Refusal> {
        for (replicate, root) in self.config.replicate.iter().zip(&self.roots) {
            let status = rustix::fs::fstat(root).map_err(|errno| system("look at the directory", errno))?;
            let found = holders::of_directory(&replicate.dir, Device::of_status(status.st_dev));
            if !found.is_empty() {
                let message = format!(
                    "{} is held open by {}; what was opened for writing before can still change this copy unseen",
                    replicate.dir.display(),
                    holders::list(&found)
                );
                self.reporter.report(What::Warning, message);
            }
        }
        Ok(())
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
            self.cover_or_refuse()?;
            self.warn_of_holders()
        })?;
        let store = self
            .store()
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
            self.keeper.clone(),
            self.reporter.clone(),
            self.runtime.clone(),
            self.endpoint.executor().clone(),
        );
        self.follow(receiver.phases());
        self.set_role(Role::Secondary(receiver));
        Ok(Reply::Done)
    }

    async fn connect(&self) -> Result<Reply, Refusal> {
        let Role::Primary(replicator) = self.role() else {
            return Err(refusal(
                RefusalKind::WrongRole,
                format!(
                    "{} is not the primary; only a primary opens a session",
                    self.config.node
                ),
            ));
        };
        let (store, offers) = (replicator.store().clone(), self.offers(replicator.store())?);
        debug!(directories = store.directories(), "connecting");
        let premises = Premises {
            node: self.config.node.clone(),
            offers,
            identities: admission::identities(),
        };
        replicator.connect(&self.endpoint, premises).await?;
        Ok(Reply::Done)
    }

    async fn go_alone(&self) -> Result<Reply, Refusal> {
        let Role::Primary(replicator) = self.role() else {
            return Err(refusal(
                RefusalKind::WrongRole,
                format!(
                    "{} is not the primary; only a primary goes on alone",
                    self.config.node
                ),
            ));
        };
        replicator.go_alone().await?;
        Ok(Reply::Done)
    }

    async fn demote(self: &Arc<Self>, abort: bool) -> Result<Reply, Refusal> {
        if abort {
            // Without the lock: a clean end that waits for a decision holds it, and this is the way out of that.
            let shown = std::mem::take(&mut *self.shown());
            tokio::task::block_in_place(|| {
                for Shown { dir, connection, .. } in shown {
                    if let Err(error) = teardown::abort(&dir, &connection) {
                        warn!(%error, "the mount is not taken away at the first try");
                    }
                }
            });
        }
        let mut mounts = self.mounts.lock().await;
        let mut ended = Ok(());
        match self.role() {
            Role::Stopped { .. } => {}
            Role::Secondary(receiver) => {
                receiver.leave("it was demoted").await;
            }
            Role::Primary(replicator) => {
                if abort {
                    tokio::task::block_in_place(|| self.abort_mounts(&mut mounts));
                    replicator.abandon();
                } else {
                    if let Some(reason) = replicator.waiting() {
                        return Err(refusal(
                            RefusalKind::Busy,
                            format!(
                                "{reason}: connect or go-alone first, or stop with --abort and lose what waits"
                            ),
                        ));
                    }
                    tokio::task::block_in_place(|| self.unmount(&mut mounts))?;
                    // Nothing is mounted any more: whatever comes of the session, this node is stopped.
                    tokio::task::block_in_place(|| self.cover_all());
                    ended = replicator.end().await;
                }
            }
        }
        self.shown().clear();
        tokio::task::block_in_place(|| self.cover_all());
        self.set_role(Role::Stopped { unlocked: false });
        ended.map(|()| Reply::Done)
    }

    /// Unmounts every directory; when one is busy none is unmounted, unless somebody came in between.
    fn unmount(&self, mounts: &mut Vec<Mounted>) -> Result<(), Refusal> {
        let busy = |message: String| refusal(RefusalKind::Busy, message);
        for mount in mounts.iter() {
            let found = holders::of_mount(mount.device());
            if !found.is_empty() {
                return Err(busy(format!(
                    "{} is in use by {}",
                    mount.dir().display(),
                    holders::list(&found)
                )));
            }
        }
        while let Some(mount) = mounts.last_mut() {
            mount.unmount().map_err(|error| busy(error.to_string()))?;
            let device = mount.device();
            mounts.pop();
            self.shown().retain(|shown| shown.connection.number() != device);
        }
        Ok(())
    }

    fn abort_mounts(&self, mounts: &mut Vec<Mounted>) {
        for mount in mounts.iter_mut() {
            if let Err(error) = mount.abort() {
                self.reporter.report(
                    What::Warning,
                    format!("the mount could not be aborted cleanly: {error}"),
                );
            }
        }
        mounts.clear();
    }

    async fn unlock(&self) -> Result<Reply, Refusal> {
        let _changing = self.mounts.lock().await;
        let Role::Stopped { .. } = self.role() else {
            return Err(refusal(
                RefusalKind::WrongRole,
                format!(
                    "{} is not stopped; demote it before its directories are opened",
                    self.config.node
                ),
            ));
        };
        self.keeper
            .update(|record| {
                record.standing = Standing::Verify;
                record.note = Some("its directories were opened for maintenance".into());
            })
            .map_err(|error| system("write the record", error))?;
        tokio::task::block_in_place(|| {
            self.config
                .replicate
                .iter()
                .try_for_each(|replicate| cover::uncover(&replicate.dir))
        })
        .map_err(|error| system("uncover", error))?;
        self.set_role(Role::Stopped { unlocked: true });
        Ok(Reply::Done)
    }

    async fn stop(self: &Arc<Self>, abort: bool) -> Result<Reply, Refusal> {
        let demoted = self.demote(abort).await;
        if demoted.is_err() && !matches!(self.role(), Role::Stopped { .. }) {
            return demoted;
        }
        self.endpoint.close("this node stops").await;
        self.stopped.send_replace(true);
        demoted
    }

    fn cover_or_refuse(&self) -> Result<(), Refusal> {
        self.config
            .replicate
            .iter()
            .try_for_each(|replicate| cover::cover(&replicate.dir))
            .map_err(|error| system("cover the directories", error))
    }

    /// Covers what can be covered; what cannot is reported, since there is nobody to refuse.
    fn cover_all(&self) {
        for replicate in &self.config.replicate {
            if let Err(error) = cover::cover(&replicate.dir) {
                self.reporter.report(
                    What::Warning,
                    format!("the directory can be changed unseen: {error}"),
                );
            }
        }
    }

    /// What this node says of its directories.
    fn offers(&self, store: &Store) -> Result<Vec<Offer>, Refusal> {
        let offer = |(index, replicate): (usize, &crate::config::Replicate)| {
            Ok(Offer {
                dir: replicate.dir.display().to_string(),
                sync: replicate.sync,
                durability: replicate.durability,
                empty: store.is_empty(index)?,
                free_bytes: store.free_bytes(index)?,
                abilities: store.abilities(index)?,
                top: store.top(index)?,
            })
        };
        tokio::task::block_in_place(|| {
            self.config
                .replicate
                .iter()
                .enumerate()
                .map(offer)
                .collect::<Result<Vec<_>, crate::backing::BackingError>>()
        })
        .map_err(|error| system("look at the directories", error))
    }

    /// Takes connections for the life of the process.
    async fn accept(self: Arc<Self>) {
        let mut listener = self.endpoint.listener();
        while let Some(caller) = listener.next().await {
            match caller {
                Ok(connection) if connection.purpose == Purpose::Session => {
                    tokio::spawn(self.clone().meet(connection));
                }
                Ok(connection) => connection.close("no bulk data is expected here"),
                Err(error) => {
                    let reason = error.to_string();
                    self.reporter.report(
                        What::PeerRefused {
                            reason: reason.clone(),
                        },
                        reason,
                    );
                }
            }
        }
    }

    /// Reads a caller's first frame and hands it to the secondary, or turns it away.
    async fn meet(self: Arc<Self>, connection: Connection) {
        let (peer_node, remote) = (connection.peer_node.clone(), connection.remote);
        let (sender, mut receiver) = connection.split::<ToPrimary, ToSecondary>();
        let hello = match tokio::time::timeout(HELLO_TIME_MAX, receiver.next()).await {
            Ok(Ok(Some(ToSecondary::Hello(hello)))) => hello,
            Ok(Ok(_)) => {
                warn!(%remote, "a caller's first frame is no Hello; the connection is closed");
                return;
            }
            Ok(Err(error)) => {
                warn!(%remote, %error, "a caller was not understood");
                return;
            }
            Err(_) => {
                warn!(%remote, "a caller said nothing; the connection is closed");
                return;
            }
        };
        match self.screen(&hello, &peer_node) {
            Ok((secondary, premises)) => secondary.serve(sender, receiver, hello, premises).await,
            Err(rejection) => {
                let reason = rejection.to_string();
                let message = format!("refused {} at {remote}: {reason}", hello.node);
                self.reporter.report(What::PeerRefused { reason }, message);
                receiver::reject(sender, rejection).await;
            }
        }
    }

    fn screen(&self, hello: &Hello, peer_node: &str) -> Result<(Receiver, Premises), Rejection> {
        if hello.module != self.config.module {
            return Err(Rejection::OtherModule {
                ours: self.config.module.clone(),
                theirs: hello.module.clone(),
            });
        }
        if hello.node != peer_node {
            return Err(Rejection::OtherNode {
                said: hello.node.clone(),
                proved: peer_node.to_owned(),
            });
        }
        let node = self.config.node.clone();
        let state = match self.role() {
            Role::Secondary(receiver) => {
                let known = || self.session_offers.lock().unwrap_or_else(PoisonError::into_inner);
                let goes_on = matches!(hello.start, Start::Resume { .. });
                let mut offers = known().clone();
                if !goes_on || offers.is_empty() {
                    offers = self
                        .offers(receiver.store())
                        .map_err(|refusal| Rejection::Unfit(refusal.message))?;
                    known().clone_from(&offers);
                }
                return Ok((
                    receiver,
                    Premises {
                        node,
                        offers,
                        identities: admission::identities(),
                    },
                ));
            }
            Role::Primary(_) => "the primary itself",
            Role::Stopped { unlocked: true } => "open for maintenance",
            Role::Stopped { unlocked: false } => "stopped",
        };
        Err(Rejection::NotSecondary {
            node,
            state: state.to_owned(),
        })
    }

    /// Where things stand.
    pub fn status(&self) -> Status {
        let record = self.keeper.current();
        let mut status = Status {
            module: self.config.module.clone(),
            node: self.config.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            role: ShownRole::Stopped,
            state: State::Stop,
            sub_state: SubState::NotReady,
            standing: record.standing,
            in_sync: false,
            repairing: false,
            connected: false,
            reason: record.note.clone(),
            generation: record.generation.map(|generation| generation.to_string()),
            last_sequence: None,
            acknowledged_sequence: None,
            queue_depth: None,
            latency: None,
            directories: Vec::new(),
        };
        let access = match self.role() {
            Role::Stopped { unlocked } => {
                if unlocked {
                    Access::Open
                } else {
                    Access::Covered
                }
            }
            Role::Secondary(receiver) => {
                show_secondary(&mut status, &receiver);
                Access::Covered
            }
            Role::Primary(replicator) => {
                show_primary(&mut status, &replicator);
                Access::Mounted
            }
        };
        let shown = self.shown().clone();
        if let Some(Shown { dir, .. }) = shown.iter().find(|shown| shown.gone) {
            status.sub_state = SubState::NotReady;
            status.reason = Some(format!("the mount over {} was taken away", dir.display()));
        }
        let is_mounted = |dir: &PathBuf| shown.iter().any(|shown| shown.dir == *dir && !shown.gone);
        status.directories = self
            .config
            .replicate
            .iter()
            .map(|replicate| Directory {
                dir: replicate.dir.clone(),
                sync: replicate.sync,
                durability: replicate.durability,
                access: match access {
                    Access::Mounted if !is_mounted(&replicate.dir) => Access::Covered,
                    access => access,
                },
            })
            .collect();
        status
    }

    /// Reports state and sub-state when they have changed.
    fn announce(&self) {
        let status = self.status();
        let shown = (status.state, status.sub_state);
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        if announced.replace(shown) == Some(shown) {
            return;
        }
        let reason = status
            .reason
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        self.reporter.report(
            What::StateChanged {
                state: shown.0,
                sub_state: shown.1,
            },
            format!("{} is {:?} {:?}{reason}", self.config.module, shown.0, shown.1),
        );
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
            Command::Connect => self.connect().await,
            Command::GoAlone => self.go_alone().await,
            Command::Demote => self.demote(false).await,
            Command::Unlock => self.unlock().await,
            Command::Status => Ok(Reply::Status(Box::new(self.status()))),
            Command::Subscribe => Ok(Reply::Done),
            Command::Stop { abort } => self.stop(abort).await,
        }
    }
}

fn show_secondary(status: &mut Status, receiver: &Receiver) {
    let view = receiver.view();
    status.role = ShownRole::Secondary;
    status.last_sequence = view.last_received.map(|number| number.0);
    status.queue_depth = Some(view.queue_depth as u64);
    let (state, sub_state, connected, reason) = match view.phase {
        secondary::Phase::Serving { linked: true } => (State::Second, SubState::Ready, true, None),
        secondary::Phase::Serving { linked: false } => (
            State::Second,
            SubState::Transient,
            false,
            Some("the connection to the primary is broken; it may have gone on alone"),
        ),
        secondary::Phase::Opening => (State::Second, SubState::Transient, true, None),
        secondary::Phase::Closing => (State::Second, SubState::Transient, true, None),
        secondary::Phase::Draining => (
            State::Wait,
            SubState::Transient,
            false,
            Some("the last operations of a session end"),
        ),
        secondary::Phase::Idle | secondary::Phase::Ended => (
            State::Wait,
            SubState::NotReady,
            false,
            Some("no primary has connected: use connect on the primary"),
        ),
    };
    status.state = state;
    status.sub_state = sub_state;
    status.connected = connected;
    // Cut off, it cannot know whether the primary has gone on alone.
    status.in_sync = connected && state == State::Second && sub_state == SubState::Ready;
    if status.reason.is_none() {
        status.reason = reason.map(str::to_owned);
    }
    let none = crate::latency::Ring::default().summary();
    status.latency = Some(Latencies {
        local: receiver.local_latency().summary(),
        wire: none.clone(),
        peer: none,
    });
}

fn show_primary(status: &mut Status, replicator: &Replicator) {
    let view = replicator.view();
    status.role = ShownRole::Primary;
    status.last_sequence = view.last_number.map(|number| number.0);
    status.acknowledged_sequence = view.acknowledged.map(|number| number.0);
    status.queue_depth = Some(view.queue_depth as u64);
    status.connected = view.connected;
    status.repairing = view.phase == Phase::InSync { repairing: true };
    status.in_sync = view.phase == Phase::InSync { repairing: false };
    let (state, sub_state, reason) = match view.phase {
        Phase::NoSession => (
            State::Prim,
            SubState::Transient,
            Some("writes wait for connect or go-alone".to_owned()),
        ),
        Phase::InSync { repairing: false } => (State::Prim, SubState::Ready, None),
        Phase::InSync { repairing: true } => (
            State::Prim,
            SubState::Transient,
            Some("the secondary is led back to this node's state".to_owned()),
        ),
        Phase::Disconnected => (
            State::Prim,
            SubState::Transient,
            Some("the connection to the secondary is broken; writes wait for another".to_owned()),
        ),
        Phase::Deciding(loss) => (
            State::Prim,
            SubState::Transient,
            Some(format!(
                "the secondary is lost ({loss}); writes wait for go-alone, or until it is heard again"
            )),
        ),
        Phase::Parting(loss) => (
            State::Prim,
            SubState::Transient,
            Some(format!("going on alone ({loss})")),
        ),
        Phase::Alone(loss) => (
            State::Alone,
            SubState::Ready,
            Some(format!("goes on alone ({loss})")),
        ),
        Phase::Failed { reason } => (
            State::Prim,
            SubState::NotReady,
            Some(format!("this node's disk fails ({reason})")),
        ),
        Phase::Ended => (State::Stop, SubState::Transient, None),
    };
    status.state = state;
    status.sub_state = sub_state;
    status.reason = reason.or(status.reason.take());
    status.latency = Some(replicator.latencies());
}

/// A directory inside another module's, or around one, would be replicated twice or not at all.
fn refuse_nested(dir: &Path) -> anyhow::Result<()> {
    match mountinfo::overlapping(dir, &mountinfo::mounts()?) {
        Some(other) => anyhow::bail!(
            "{} overlaps with {}, mounted on {}; a directory belongs to one module only",
            dir.display(),
            other.source,
            other.point.display()
        ),
        None => Ok(()),
    }
}

/// Clears leftovers, opens every directory as it is below any mount of ours, and covers it.
fn open_directories(config: &Config) -> anyhow::Result<Vec<OwnedFd>> {
    let mut roots = Vec::new();
    let mut resolved: Vec<PathBuf> = Vec::new();
    for replicate in &config.replicate {
        let dir = &replicate.dir;
        leftovers::clear(dir)?;
        let real = std::fs::canonicalize(dir)
            .with_context(|| format!("cannot find the directory {}; make it first", dir.display()))?;
        if let Some(other) = resolved
            .iter()
            .find(|other| other.starts_with(&real) || real.starts_with(other))
        {
            anyhow::bail!(
                "{} and {} are the same or one inside the other",
                real.display(),
                other.display()
            );
        }
        refuse_nested(&real)?;
        resolved.push(real);
        roots.push(over::open_backing(dir)?);
        cover::cover(dir)?;
    }
    Ok(roots)
}

fn refusal(kind: RefusalKind, message: String) -> Refusal {
    Refusal { kind, message }
}

fn system(attempt: &str, error: impl std::fmt::Display) -> Refusal {
    refusal(RefusalKind::System, format!("cannot {attempt}: {error}"))
}
