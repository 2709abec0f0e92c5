//! Becoming the primary: what refuses it, what is written down first, and the mounts.

use super::{Module, Role, Shown, refusal, system};
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
        let former = match role {
            Role::Secondary(receiver) => {
                if !matches!(
                    receiver.view().phase,
                    secondary::Phase::Serving { copying: false, .. }
                ) {
                    barred()?;
                }
                let had_session = receiver.leave("it was told to become primary").await;
                self.set_role(Role::Stopped { unlocked: false });
                had_session.then_some(receiver)
            }
            Role::Stopped { .. } | Role::Primary(_) => None,
        };
        tokio::task::block_in_place(|| {
            if let Some(receiver) = former {
                self.note_alone(
                    "it was in sync when it was told to become primary",
                    Some(&receiver),
                )
            } else if barred()? {
                self.note_alone("it was forced to become primary", None)
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
                // Only what was in sync to the last is known to differ by nothing.
                record.changed_alone = !tracked;
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
        // What is written from now on belongs to this module: as a secondary this node may be overwritten later.
        for index in 0..store.directories() {
            store
                .set_marker(index, &self.config.module)
                .map_err(|error| system("mark the directories", error))?;
        }
        let replicator = Replicator::new(Setup {
            config: self.config.clone(),
            store: store.clone(),
            keeper: self.keeper.clone(),
            reporter: self.reporter.clone(),
            runtime: self.runtime.clone(),
            maps: self.maps.clone(),
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
}
