//! Becoming the primary: what refuses it, what is written down first, and the mounts.

use super::{Module, Role, Shown, refusal, system};
use crate::backing::Leftovers;
use crate::control::command::{Refusal, RefusalKind, Reply};
use crate::control::event::What;
use crate::fuse::{MountOptions, Mounted};
use crate::mount::cover;
use crate::receiver::Receiver;
use crate::replicator::{Replicator, Setup};
use crate::session::secondary;
use crate::wire::message::Generation;
use std::sync::Arc;
use tracing::{debug, info, warn};

/// How a node begins that was in no session a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// By itself.
    Alone,
    /// It has left that to the peer, and so begins beside it.
    BesidePeer,
    /// A person said so.
    Forced,
}

impl Module {
    pub(super) async fn become_primary(
        self: &Arc<Self>,
        ignore_holders: bool,
        force: bool,
    ) -> Result<Reply, Refusal> {
        let mut mounts = self.mounts.lock().await;
        // What refuses comes first: a node that is refused keeps the role it has.
        let role = self.role();
        if let Role::Primary(_) = role {
            return Ok(Reply::Done);
        }
        let module = self.clone();
        tokio::task::spawn_blocking(move || {
            module.refuse_overlaps()?;
            module.refuse_holders(ignore_holders)
        })
        .await
        .map_err(|error| system("look for programs in the directories", error))??;
        let former = match role {
            Role::Secondary(receiver) => {
                if !matches!(
                    receiver.view().phase,
                    secondary::Phase::Serving { copying: false, .. }
                ) {
                    self.beginning(force)?;
                }
                let had_session = receiver.leave("it was told to become primary").await;
                self.set_role(Role::Stopped { unlocked: false });
                had_session.then_some(receiver)
            }
            Role::Stopped { .. } | Role::Primary(_) => None,
        };
        let mut beginning = Beginning::Alone;
        tokio::task::block_in_place(|| {
            if let Some(receiver) = former {
                return self.note_alone(
                    "it was in sync when it was told to become primary",
                    Some(&receiver),
                );
            }
            beginning = self.beginning(force)?;
            match beginning {
                Beginning::Forced => self.note_alone("it was forced to become primary", None),
                Beginning::Alone | Beginning::BesidePeer => Ok(()),
            }
        })?;
        let replicator = tokio::task::block_in_place(|| self.replicator())?;
        if beginning == Beginning::BesidePeer
            && let Err(refusal) = self.begin_beside_peer(&replicator).await
        {
            replicator.abandon();
            return Err(refusal);
        }
        let (module, mounting) = (self.clone(), replicator.clone());
        let made = tokio::task::spawn_blocking(move || module.mount_all(&mounting))
            .await
            .map_err(|error| system("mount the directories", error))?;
        let made = match made {
            Ok(made) => made,
            Err(failure) => {
                // Cleanly, if there is a session: nothing was written.
                if let Err(error) = replicator.end().await {
                    warn!(%error, "the session of a primary that could not mount");
                }
                return Err(failure);
            }
        };
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

    /// How this node may become primary, going by its record.
    fn beginning(&self, force: bool) -> Result<Beginning, Refusal> {
        let record = self.keeper.current();
        match record.bars_primary() {
            None => Ok(Beginning::Alone),
            Some(_) if force => Ok(Beginning::Forced),
            Some(_) if record.handed_over() => Ok(Beginning::BesidePeer),
            Some(reason) => Err(refusal(
                RefusalKind::NotUpToDate,
                format!(
                    "{} cannot become primary: {reason}. Start it as secondary, or, if you know that this copy is the \
                     one to keep, use --force: the other copy then needs a full copy",
                    self.config.node
                ),
            )),
        }
    }

    /// Asks the peer, which may have begun alone meanwhile. Before anything is mounted: nobody reads an older copy.
    async fn begin_beside_peer(&self, replicator: &Arc<Replicator>) -> Result<(), Refusal> {
        let premises = self.premises(replicator.store())?;
        let begun = replicator.begin_beside_peer(&self.endpoint, premises).await;
        begun.map_err(|failure| {
            let (node, peer) = (&self.config.node, &self.config.peer.node);
            refusal(
                RefusalKind::NotUpToDate,
                format!(
                    "{node} cannot become primary without {peer}, which it left the next beginning to when their last \
                     session ended, and which may have begun alone since. Start {peer} as secondary first, or make it \
                     the primary; or, if you know that this copy is the one to keep, use --force: the other copy then \
                     needs a full copy. What came of asking it: {}",
                    failure.message
                ),
            )
        })
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

    /// Writes down that the other copy lacks data from now on, and before it, what it may lack, if that is known.
    fn note_alone(&self, note: &str, former: Option<&Receiver>) -> Result<(), Refusal> {
        let generation = Generation::random().map_err(|error| system("make a generation", error))?;
        let saved = former.map(|receiver| receiver.saved(generation));
        let tracked = match saved.map(|saved| self.maps.replace(&saved)) {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                let message = format!("{error}; the other copy will be compared completely");
                self.reporter.report(What::Warning, message);
                false
            }
            None => false,
        };
        let here = self.keeper.here();
        self.keeper
            .update(|record| {
                record.part(generation, note.to_owned(), here);
                record.tracked = tracked;
            })
            .map_err(|error| system("write the record", error))?;
        info!(%generation, note, "goes on alone");
        Ok(())
    }

    /// What a primary is beside its mounts.
    fn replicator(&self) -> Result<Arc<Replicator>, Refusal> {
        let store = self
            .store(Leftovers::Stay)
            .map_err(|error| system("open the directories", format!("{error:#}")))?;
        // What is written from now on belongs to this module: as a secondary this node may be overwritten later.
        for index in 0..store.directories() {
            store
                .set_marker(index, &self.config.module)
                .map_err(|error| system("mark the directories", error))?;
        }
        Ok(Replicator::new(Setup {
            config: self.config.clone(),
            store,
            keeper: self.keeper.clone(),
            reporter: self.reporter.clone(),
            runtime: self.runtime.clone(),
            maps: self.maps.clone(),
        }))
    }

    /// Mounts every directory, or none.
    fn mount_all(&self, replicator: &Arc<Replicator>) -> Result<Vec<Mounted>, Refusal> {
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
                .and_then(|()| Mounted::mount(options, replicator.store().clone(), replicator.clone()));
            match result {
                Ok(mount) => mounted.push(mount),
                Err(error) => {
                    for mount in &mut mounted {
                        if let Err(error) = mount.abort() {
                            warn!(%error, "cannot take a mount down again");
                        }
                    }
                    self.cover_all();
                    return Err(system("mount", error));
                }
            }
        }
        Ok(mounted)
    }
}
