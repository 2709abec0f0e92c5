//! What was put aside before a copy overwrote it.

use super::{Module, Role, refusal, system};
use crate::backing::{Leftovers, Store};
use crate::control::command::{ArchivesCommand, Refusal, RefusalKind, Reply};
use std::sync::Arc;

impl Module {
    pub(super) async fn archives(self: &Arc<Self>, order: ArchivesCommand) -> Result<Reply, Refusal> {
        let store = self.any_store()?;
        if let (Role::Secondary(receiver), ArchivesCommand::Remove { .. }) = (self.role(), &order) {
            receiver.forget_archive().await;
        }
        // Removing a large one takes long.
        tokio::task::spawn_blocking(move || match order {
            ArchivesCommand::List => store
                .archives()
                .map(Reply::Archives)
                .map_err(|error| system("list the archives", error)),
            ArchivesCommand::Remove { name } => match store.remove_archive(&name) {
                Ok(true) => Ok(Reply::Done),
                Ok(false) => Err(refusal(
                    RefusalKind::BadRequest,
                    format!("there is no archive {name:?} on this node; 'archives' lists them"),
                )),
                Err(error) => Err(system("remove an archive", error)),
            },
        })
        .await
        .map_err(|error| system("look for archives", error))?
    }

    /// Of the present role, or one of its own.
    fn any_store(&self) -> Result<Arc<Store>, Refusal> {
        match self.role() {
            Role::Primary(replicator) => Ok(replicator.store().clone()),
            Role::Secondary(receiver) => Ok(receiver.store().clone()),
            Role::Stopped { .. } => tokio::task::block_in_place(|| self.store(Leftovers::Stay))
                .map_err(|error| system("open the directories", format!("{error:#}"))),
        }
    }
}
