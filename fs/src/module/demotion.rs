//! Leaving a role: the clean end, the one that loses what waits, and the opening for maintenance.

use super::{Module, Role, Shown, refusal, system};
use crate::control::command::{Refusal, RefusalKind, Reply};
use crate::control::event::What;
use crate::fuse::Mounted;
use crate::mount::{cover, holders, teardown};
use std::sync::Arc;
use tracing::warn;

impl Module {
    pub(super) async fn demote(self: &Arc<Self>, abort: bool) -> Result<Reply, Refusal> {
        if abort {
            // Without the lock: a clean end holds it that waits, for a decision or for a secondary that does not
            // answer, and this is the way out of both.
            let shown = std::mem::take(&mut *self.shown());
            tokio::task::block_in_place(|| {
                for Shown { dir, connection, .. } in shown {
                    if let Err(error) = teardown::abort(&dir, &connection) {
                        warn!(%error, "the mount is not taken away at the first try");
                    }
                }
            });
            if let Role::Primary(replicator) = self.role() {
                replicator.abandon();
            }
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

    pub(super) async fn unlock(&self) -> Result<Reply, Refusal> {
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
            .devalue(|record| record.distrust("its directories were opened for maintenance".into()))
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

    pub(super) async fn stop(self: &Arc<Self>, abort: bool) -> Result<Reply, Refusal> {
        let demoted = self.demote(abort).await;
        if demoted.is_err() && !matches!(self.role(), Role::Stopped { .. }) {
            return demoted;
        }
        self.endpoint.close("this node stops").await;
        self.stopped.send_replace(true);
        demoted
    }
}
