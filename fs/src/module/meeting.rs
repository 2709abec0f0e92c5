//! Meeting the peer: the primary's calls, and the callers of a secondary.

use super::{Module, Role, refusal, system};
use crate::admission;
use crate::backing::{BackingError, Store};
use crate::control::command::{CopyCommand, Refusal, RefusalKind, Reply, VerifyCommand};
use crate::control::event::What;
use crate::link::{Connection, Purpose};
use crate::receiver::{self, Premises, Receiver};
use crate::record::split_brain::Change;
use crate::wire::bulk::{ToSource, ToTarget};
use crate::wire::message::{Hello, Offer, Rejection, Start, ToPrimary, ToSecondary};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tracing::{debug, warn};

/// How long a caller may take for its first frame.
const HELLO_TIME_MAX: Duration = Duration::from_secs(5);

impl Module {
    pub(super) async fn connect(&self, overwrite: bool) -> Result<Reply, Refusal> {
        let Role::Primary(replicator) = self.role() else {
            return Err(refusal(
                RefusalKind::WrongRole,
                format!(
                    "{} is not the primary; only a primary opens a session",
                    self.config.node
                ),
            ));
        };
        let premises = self.premises(replicator.store())?;
        replicator.connect(&self.endpoint, premises, overwrite).await?;
        Ok(Reply::Done)
    }

    /// What a primary says of itself.
    pub(super) fn premises(&self, store: &Store) -> Result<Premises, Refusal> {
        let offers = self.offers(store)?;
        debug!(directories = store.directories(), "connecting");
        Ok(Premises {
            node: self.config.node.clone(),
            offers,
            // Nobody overwrites a primary.
            foreign: None,
            identities: admission::identities(),
            changed: Change::UNKNOWN,
        })
    }

    /// What this node, which is a secondary, has changed without its peer.
    fn changed_alone(&self, store: &Store) -> Change {
        let record = self.keeper.current();
        tokio::task::block_in_place(|| match self.maps.changed_alone(&record) {
            Ok(Some(saved)) => store.amount(&saved, self.config.extent_bytes),
            Ok(None) => Change::UNKNOWN,
            Err(error) => {
                warn!(%error, "how much was changed here without the peer is not known");
                Change::UNKNOWN
            }
        })
    }

    pub(super) fn order_copy(&self, order: CopyCommand) -> Result<Reply, Refusal> {
        let Role::Primary(replicator) = self.role() else {
            return Err(refusal(
                RefusalKind::WrongRole,
                format!("{} is not the primary; only a primary copies", self.config.node),
            ));
        };
        let orders = replicator.copy_orders();
        match order {
            CopyCommand::Pause => orders.pause(true),
            CopyCommand::Resume => orders.pause(false),
            CopyCommand::Limit { bytes_per_second } => orders.limit(bytes_per_second),
            CopyCommand::Hurry => replicator.hurry_copies(true),
            CopyCommand::Yield => replicator.hurry_copies(false),
        }
        Ok(Reply::Done)
    }

    pub(super) async fn verify(&self, order: VerifyCommand) -> Result<Reply, Refusal> {
        let Role::Primary(replicator) = self.role() else {
            return Err(refusal(
                RefusalKind::WrongRole,
                format!("{} is not the primary; only a primary verifies", self.config.node),
            ));
        };
        match order {
            VerifyCommand::Start { repair } => replicator.verify(repair)?,
            VerifyCommand::Stop => replicator.stop_verification("it was told to stop").await,
            VerifyCommand::Wait => replicator.verified().await,
            VerifyCommand::Status => {}
        }
        match order {
            VerifyCommand::Start { .. } | VerifyCommand::Stop => Ok(Reply::Done),
            VerifyCommand::Wait | VerifyCommand::Status => match replicator.verification() {
                Some(report) => Ok(Reply::Verification(Box::new(report))),
                None => Err(refusal(
                    RefusalKind::WrongRole,
                    "nothing was verified since this node became primary: begin with verify".to_owned(),
                )),
            },
        }
    }

    pub(super) async fn go_alone(&self) -> Result<Reply, Refusal> {
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
                exclude: replicate.exclude.clone(),
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
    pub(super) async fn accept(self: Arc<Self>) {
        let mut listener = self.endpoint.listener();
        while let Some(caller) = listener.next().await {
            match caller {
                Ok(connection) => {
                    tokio::spawn(self.clone().meet(connection));
                }
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
        if connection.purpose == Purpose::Bulk {
            return self.meet_bulk(connection).await;
        }
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

    /// As [`Module::meet`], for a connection of a copy.
    async fn meet_bulk(self: Arc<Self>, connection: Connection) {
        let (peer_node, remote) = (connection.peer_node.clone(), connection.remote);
        let (sender, mut receiver) = connection.split::<ToSource, ToTarget>();
        let open = match tokio::time::timeout(HELLO_TIME_MAX, receiver.next()).await {
            Ok(Ok(Some(ToTarget::Open(open)))) if open.node == peer_node => open,
            Ok(Ok(_)) => {
                warn!(%remote, "a bulk connection does not begin as it must; it is closed");
                return;
            }
            Ok(Err(error)) => {
                warn!(%remote, %error, "a bulk connection was not understood");
                return;
            }
            Err(_) => {
                warn!(%remote, "a bulk connection said nothing; it is closed");
                return;
            }
        };
        match self.role() {
            Role::Secondary(secondary) => secondary.serve_bulk(sender, receiver, open).await,
            Role::Primary(_) | Role::Stopped { .. } => {
                warn!(%remote, "a bulk connection to a node that is no secondary is closed");
            }
        }
    }

    /// A directory that holds files and no mark that they belong to this module.
    fn foreign(&self, store: &Store, offers: &[Offer]) -> Result<Option<String>, BackingError> {
        for (index, offer) in offers.iter().enumerate() {
            if !offer.empty && store.marker(index)?.as_deref() != Some(&*self.config.module) {
                return Ok(Some(offer.dir.clone()));
            }
        }
        Ok(None)
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
                let foreign = self
                    .foreign(receiver.store(), &offers)
                    .map_err(|error| Rejection::Unfit(error.to_string()))?;
                let changed = if goes_on {
                    Change::UNKNOWN
                } else {
                    self.changed_alone(receiver.store())
                };
                return Ok((
                    receiver,
                    Premises {
                        node,
                        offers,
                        foreign,
                        identities: admission::identities(),
                        changed,
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
}
