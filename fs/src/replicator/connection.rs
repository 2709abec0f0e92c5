//! Makes the connection to the secondary, and makes it again while the session may go on.

use super::*;
use crate::record::Present;
use crate::record::decision::CopyState;
use crate::record::split_brain::Change;

/// Pauses between attempts to connect again: short at first, since most breaks are.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Longest pause between attempts to tell a secondary that it was left behind.
const PART_PAUSE_MAX: Duration = Duration::from_secs(5);

type Sender = link::Sender<ToSecondary>;
type Receiver = link::Receiver<ToPrimary>;

/// Why a first connection did not become a session.
pub(super) enum Unmet {
    /// Nobody answered at any address.
    Unreachable(String),
    /// The secondary was reached and said no, or is not who it should be.
    Refused(String),
    /// It turned the `Hello` away.
    Rejected(Rejection),
}

/// What a first call has led to.
enum Met {
    /// A session.
    InSync,
    /// The secondary is to be joined by a copy of this node's, and by nothing else.
    NeedsCopy(Premises),
}

impl Replicator {
    /// Opens a session with the secondary; in sync when this returns. One that goes on already is enough.
    ///
    /// Copies that are not known to be equal are made so first: this node goes on alone meanwhile, if it does not
    /// already. `overwrite`: whatever the secondary holds may be lost.
    pub async fn connect(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        premises: Premises,
        overwrite: bool,
    ) -> Result<(), Refusal> {
        let _one_at_a_time = self.one_connects().await;
        let endpoint = self.endpoint.get_or_init(|| endpoint.clone());
        if let Phase::Alone(_) | Phase::Parting(_) = self.view().phase {
            return self.join_by_copy(endpoint, premises, overwrite).await;
        }
        match self.open_session(endpoint, premises, overwrite).await? {
            Met::InSync => Ok(()),
            Met::NeedsCopy(premises) => {
                self.go_alone().await?;
                self.join_by_copy(endpoint, premises, overwrite).await
            }
        }
    }

    /// Whether this node may begin beside its peer, which alone may begin without the other: in a session, or because the
    /// peer itself says that its copy is to be made like this one.
    ///
    /// # Errors
    /// When the peer cannot be asked, or it says no.
    pub async fn begin_beside_peer(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        premises: Premises,
    ) -> Result<(), Refusal> {
        let _one_at_a_time = self.one_connects().await;
        let endpoint = self.endpoint.get_or_init(|| endpoint.clone());
        match self.open_session(endpoint, premises, false).await? {
            Met::InSync | Met::NeedsCopy(_) => Ok(()),
        }
    }

    async fn one_connects(&self) -> tokio::sync::MutexGuard<'_, ()> {
        match self.connecting.try_lock() {
            Ok(guard) => guard,
            Err(_) => {
                // A copy that pauses before it begins anew does so now: whoever asks may have mended what was wrong.
                self.copies.hasten.notify_one();
                self.connecting.lock().await
            }
        }
    }

    async fn open_session(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        premises: Premises,
        overwrite: bool,
    ) -> Result<Met, Refusal> {
        match self.view().phase {
            Phase::NoSession => {}
            Phase::InSync { .. } => return Ok(Met::InSync),
            other => {
                return Err(Refusal {
                    kind: RefusalKind::WrongRole,
                    message: format!(
                        "cannot open a new session now: {}. A session that may go on does so by itself; otherwise use \
                         go-alone",
                        describe(&other)
                    ),
                });
            }
        }
        let record = self.keeper.current();
        let generation = match record.generation {
            Some(generation) => generation,
            None => Generation::random().map_err(|error| system("make a generation", error))?,
        };
        let session = SessionId(random_bytes().map_err(|error| system("make a session's number", error))?);
        let start = Start::Fresh {
            generation,
            clean: !record.open,
        };
        let by_copy = |rejection: &Rejection| match rejection {
            Rejection::FullCopyNeeded(_) => true,
            Rejection::WouldOverwrite(_) | Rejection::SplitBrain(_) => overwrite,
            _ => false,
        };
        let met = match self.meet_settled(endpoint, &premises, session, &start).await {
            Err(Unmet::Rejected(rejection)) if by_copy(&rejection) => {
                info!(%rejection, "the secondary is joined by a copy");
                return Ok(Met::NeedsCopy(premises));
            }
            met => met,
        };
        let (sender, receiver, welcome) = met.map_err(|unmet| self.refusal(unmet))?;
        for warning in admission::identity_warnings(&premises.identities, &welcome.identities) {
            self.reporter.report(What::Warning, warning);
        }
        // Durable before the first operation of the session.
        let keeper = self.keeper.clone();
        let noted = tokio::task::spawn_blocking(move || {
            let here = keeper.here();
            keeper.update(|record| {
                // Who has been told to go on alone meanwhile is on a generation of its own.
                if !record.peer_lacks_data {
                    record.open_session(generation, Role::Primary, here);
                }
            })
        });
        let noted = noted
            .await
            .map_err(|error| system("write the record", error))?
            .map_err(|error| system("write the record", error))?;
        if noted.peer_lacks_data {
            return Err(went_alone());
        }
        let connection = self.connected(sender, session, welcome);
        let phase = self.view().phase;
        if let Phase::Ended = phase {
            // The module was demoted meanwhile: no operation was numbered, so nothing is open.
            let keeper = self.keeper.clone();
            tokio::task::spawn_blocking(move || keeper.update(|present| *present = record))
                .await
                .map_err(|error| system("write the record", error))?
                .map_err(|error| system("write the record", error))?;
        }
        tokio::spawn(
            self.clone()
                .keep(connection, receiver, endpoint.clone(), premises, session),
        );
        match phase {
            Phase::Alone(_) | Phase::Parting(_) | Phase::Copying(_) => Err(went_alone()),
            Phase::Ended | Phase::NoSession => Err(Refusal {
                kind: RefusalKind::WrongRole,
                message: format!("there is no session: {}", describe(&phase)),
            }),
            Phase::InSync { .. }
            | Phase::Joining
            | Phase::Disconnected
            | Phase::Deciding(_)
            | Phase::Failed { .. } => Ok(Met::InSync),
        }
    }

    pub(super) fn refusal(&self, unmet: Unmet) -> Refusal {
        let peer = &self.config.peer.node;
        match unmet {
            Unmet::Unreachable(reason) => Refusal {
                kind: RefusalKind::PeerUnreachable,
                message: format!(
                    "cannot reach {peer}: {reason}. Is skfs running there, and UDP open between the nodes?"
                ),
            },
            Unmet::Refused(reason) => {
                self.reporter.report(
                    What::PeerRefused {
                        reason: reason.clone(),
                    },
                    reason.clone(),
                );
                Refusal {
                    kind: RefusalKind::PeerRefused,
                    message: format!("no connection to {peer}: {reason}"),
                }
            }
            Unmet::Rejected(rejection) => Refusal {
                kind: match rejection {
                    Rejection::WouldOverwrite(_) | Rejection::SplitBrain(_) => RefusalKind::WouldOverwrite,
                    _ => RefusalKind::PeerRefused,
                },
                message: format!("{peer} refuses the session: {rejection}"),
            },
        }
    }

    /// Hands a welcomed connection in; gives its number.
    fn connected(self: &Arc<Self>, sender: Sender, session: SessionId, welcome: Welcome) -> u64 {
        self.begin(sender, Event::Connected { session, welcome })
    }

    /// A connection that is welcomed, and what begins or goes on with it.
    pub(super) fn begin(self: &Arc<Self>, sender: Sender, event: Event) -> u64 {
        let (connection, deferred) = {
            let mut inner = self.lock();
            inner.connection += 1;
            inner.out = Some(sender.into_outbox());
            self.peer_noted.store(false, Ordering::Release);
            let deferred = self.step(&mut inner, event);
            (inner.connection, deferred)
        };
        self.carry_out(deferred, Runs::Task);
        connection
    }

    /// Reads the connection, and makes a new one whenever it breaks, as long as the session may go on.
    pub(super) async fn keep(
        self: Arc<Self>,
        mut connection: u64,
        mut receiver: Receiver,
        endpoint: Endpoint,
        premises: Premises,
        session: SessionId,
    ) {
        let mut confirmed = None;
        loop {
            let reason = self.read(connection, receiver).await;
            if *self.over.borrow() {
                return;
            }
            info!(%reason, "the connection to the secondary ended");
            self.link_lost(connection);
            confirmed = self.confirmed_in(session).or(confirmed);
            match self.reconnect(&endpoint, &premises, session).await {
                Some((next, next_receiver)) => (connection, receiver) = (next, next_receiver),
                None => break,
            }
        }
        if let Some(confirmed) = confirmed {
            self.tell_parted(&endpoint, &premises, session, confirmed).await;
        }
    }

    /// What a new connection of this session would confirm; none when it may not go on.
    fn confirmed_in(&self, session: SessionId) -> Option<Number> {
        let resumable = self.lock().primary.resumable();
        resumable
            .filter(|(present, _)| *present == session)
            .map(|(_, confirmed)| confirmed)
    }

    /// Calls a secondary that was left behind until it has noted that its copy is outdated: cut off, it could not
    /// know, and would go on believing that it may become primary.
    async fn tell_parted(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        premises: &Premises,
        session: SessionId,
        confirmed: Number,
    ) {
        let mut over = self.over.subscribe();
        let mut phases = self.phases();
        let alone = |phase: &Phase| matches!(phase, Phase::Alone(_) | Phase::Failed { .. } | Phase::Ended);
        tokio::select! {
            _ = phases.wait_for(alone) => {}
            _ = over.wait_for(|over| *over) => return,
        }
        let Phase::Alone(loss) = self.view().phase else {
            return;
        };
        let mut pause = PAUSE_FIRST;
        while !self.peer_noted.load(Ordering::Acquire) {
            let start = Start::Resume { confirmed };
            match self.meet(endpoint, premises, session, &start).await {
                Ok((sender, receiver, _)) => match self.part(sender, receiver, &loss).await {
                    Ok(()) => {
                        self.tell(Action::PeerNoted);
                        return;
                    }
                    Err(reason) => debug!(%reason, "the secondary has not noted yet that it is outdated"),
                },
                Err(Unmet::Rejected(rejection @ Rejection::NotSecondary { .. })) => {
                    let message = format!("cannot tell the secondary that its copy is outdated: {rejection}");
                    self.reporter.report(What::Warning, message);
                    return;
                }
                Err(Unmet::Rejected(rejection)) => {
                    // Its record says "open", so it does not become primary by itself.
                    info!(%rejection, "the secondary has no session any more that could be parted");
                    return;
                }
                Err(Unmet::Unreachable(reason) | Unmet::Refused(reason)) => {
                    debug!(%reason, "the secondary cannot be told yet that it is outdated");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = over.wait_for(|over| *over) => return,
            }
            pause = (pause * 2).min(PART_PAUSE_MAX);
        }
    }

    /// Sends `Part` and waits until the secondary has noted it.
    async fn part(&self, mut sender: Sender, mut receiver: Receiver, loss: &Loss) -> Result<(), String> {
        let generation = self
            .keeper
            .current()
            .generation
            .ok_or("this node has no generation")?;
        let part = ToSecondary::Part {
            generation,
            reason: crate::wire::limits::text(loss.to_string()),
        };
        let encoded = part.encode().map_err(|error| error.to_string())?;
        sender.send([encoded]).await.map_err(|error| error.to_string())?;
        let noted = async {
            loop {
                match receiver.next().await {
                    Ok(Some(ToPrimary::Parted)) => return Ok(()),
                    Ok(Some(_)) => {}
                    Ok(None) => return Err("it closed the connection".to_owned()),
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        tokio::time::timeout(self.config.local_stall, noted)
            .await
            .unwrap_or_else(|_| Err("it does not answer".to_owned()))
    }

    /// Hands frames in until the connection ends; gives the reason.
    async fn read(self: &Arc<Self>, connection: u64, receiver: Receiver) -> String {
        let mut over = self.over.subscribe();
        let replicator = self.clone();
        let reading = receiver.each_batch(move |batch| replicator.received(connection, batch));
        tokio::select! {
            ended = reading => match ended {
                Ok(true) => "the secondary closed it".into(),
                Ok(false) => "another connection took its place".into(),
                Err(error) => error.to_string(),
            },
            _ = over.wait_for(|over| *over) => "the session is over".into(),
        }
    }

    /// Frames of connection `connection`; false when it is not the present one any more. Runs on the thread that the
    /// packets arrive at, and so do the short operations that were answered.
    fn received(self: &Arc<Self>, connection: u64, batch: &mut Vec<ToPrimary>) -> bool {
        let mut deferred = VecDeque::new();
        {
            let mut inner = self.lock();
            if inner.connection != connection {
                return false;
            }
            for message in batch.drain(..) {
                if let ToPrimary::Pong { rooms, .. } = &message {
                    inner.peer_rooms.clone_from(rooms);
                }
                deferred.extend(self.step(&mut inner, Event::Received(message)));
            }
        }
        self.carry_out(deferred, Runs::Arrival);
        true
    }

    fn link_lost(self: &Arc<Self>, connection: u64) {
        let deferred = {
            let mut inner = self.lock();
            if inner.connection != connection {
                return;
            }
            inner.out = None;
            self.step(&mut inner, Event::LinkLost)
        };
        self.carry_out(deferred, Runs::Task);
    }

    /// Tries every address in turn until the session goes on, or must not any more.
    async fn reconnect(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        premises: &Premises,
        session: SessionId,
    ) -> Option<(u64, Receiver)> {
        let mut over = self.over.subscribe();
        let mut pause = PAUSE_FIRST;
        loop {
            let confirmed = self.confirmed_in(session)?;
            let start = Start::Resume { confirmed };
            let met = tokio::select! {
                met = self.meet(endpoint, premises, session, &start) => met,
                _ = over.wait_for(|over| *over) => return None,
            };
            match met {
                Ok((sender, receiver, welcome)) => {
                    let connection = self.connected(sender, session, welcome);
                    return Some((connection, receiver));
                }
                Err(Unmet::Rejected(rejection)) => {
                    info!(%rejection, "the secondary does not go on with the session");
                    let deferred = {
                        let mut inner = self.lock();
                        // What is said of this session is not said of one that has begun meanwhile.
                        let present = inner.primary.resumable();
                        if present.is_none_or(|(present, _)| present != session) {
                            return None;
                        }
                        self.step(&mut inner, Event::Rejected(rejection))
                    };
                    self.carry_out(deferred, Runs::Task);
                }
                Err(Unmet::Unreachable(reason) | Unmet::Refused(reason)) => {
                    debug!(%reason, "not connected again yet");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = over.wait_for(|over| *over) => return None,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// As [`Replicator::meet`], patient with a secondary whose kernel still works on a former session, or that puts aside
    /// what it would lose.
    pub(super) async fn meet_settled(
        &self,
        endpoint: &Endpoint,
        premises: &Premises,
        session: SessionId,
        start: &Start,
    ) -> Result<(Sender, Receiver, Welcome), Unmet> {
        let patience = Instant::now() + self.config.local_stall;
        loop {
            match self.meet(endpoint, premises, session, start).await {
                Err(Unmet::Rejected(Rejection::StillRunning)) if Instant::now() < patience => {
                    tokio::time::sleep(PAUSE_MAX).await;
                }
                // As long as that takes: whoever asked for it may stop this node, or go on alone.
                Err(Unmet::Rejected(rejection @ Rejection::Archiving)) if !*self.over.borrow() => {
                    debug!(%rejection, "calling again");
                    tokio::time::sleep(PAUSE_MAX).await;
                }
                met => return met,
            }
        }
    }

    /// One attempt at each address of the peer, until one answers.
    pub(super) async fn meet(
        &self,
        endpoint: &Endpoint,
        premises: &Premises,
        session: SessionId,
        start: &Start,
    ) -> Result<(Sender, Receiver, Welcome), Unmet> {
        let mut unreachable = Vec::new();
        for address in &self.config.peer.addresses {
            match self.meet_at(*address, endpoint, premises, session, start).await {
                Err(Unmet::Unreachable(reason)) => unreachable.push(format!("{address}: {reason}")),
                other => return other,
            }
        }
        Err(Unmet::Unreachable(unreachable.join("; ")))
    }

    /// What this node says of its own copy.
    fn copy_state(&self, premises: &Premises) -> CopyState {
        let record = self.keeper.current();
        let map_is_complete = self.lock().primary.copy_plan().is_some();
        let present = Present {
            boot_id: self.keeper.here().boot_id,
            remembers: false,
            map_is_complete,
            peer_checkpoint: self.peer_checkpoint(&record),
            empty: premises.offers.iter().all(|offer| offer.empty),
            foreign: false,
            changed: self.changed_alone(&record),
        };
        record.state(&present)
    }

    /// What this node has changed without its peer.
    fn changed_alone(&self, record: &crate::record::Record) -> Change {
        if !record.peer_lacks_data {
            return Change::UNKNOWN;
        }
        let saved = {
            let inner = self.lock();
            self.saved(&inner.primary)
        };
        saved.map_or(Change::UNKNOWN, |saved| {
            tokio::task::block_in_place(|| self.store.amount(&saved, self.config.extent_bytes))
        })
    }

    async fn meet_at(
        &self,
        address: SocketAddr,
        endpoint: &Endpoint,
        premises: &Premises,
        session: SessionId,
        start: &Start,
    ) -> Result<(Sender, Receiver, Welcome), Unmet> {
        let connection = endpoint.connect(address).await.map_err(|error| match error {
            LinkError::Refused { .. } | LinkError::RefusedByPeer { .. } | LinkError::Wire { .. } => {
                Unmet::Refused(error.to_string())
            }
            other => Unmet::Unreachable(other.to_string()),
        })?;
        let (mut sender, mut receiver) = connection.split::<ToSecondary, ToPrimary>();
        let hello = ToSecondary::Hello(Hello {
            module: self.config.module.clone(),
            node: self.config.node.clone(),
            session,
            start: start.clone(),
            copy: Box::new(self.copy_state(premises)),
            directories: premises.offers.clone(),
            identities: premises.identities.clone(),
        });
        let unreachable = |reason: String| Unmet::Unreachable(reason);
        let encoded = hello
            .encode()
            .map_err(|error| Unmet::Refused(error.to_string()))?;
        sender
            .send([encoded])
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        // For a new session the secondary writes to its disk first.
        let patience = match start {
            Start::Fresh { .. } | Start::Copy { .. } => self.config.local_stall,
            Start::Resume { .. } => self.config.peer_stall,
        };
        let answer = tokio::time::timeout(patience, receiver.next())
            .await
            .map_err(|_| unreachable("it does not answer the first message".into()))?
            .map_err(|error| unreachable(error.to_string()))?;
        match answer {
            Some(ToPrimary::Welcome(welcome)) if welcome.node == self.config.peer.node => {
                Ok((sender, receiver, welcome))
            }
            Some(ToPrimary::Welcome(welcome)) => Err(Unmet::Refused(format!(
                "the node at {address} says it is {}, not {}",
                welcome.node, self.config.peer.node
            ))),
            Some(ToPrimary::Reject(rejection)) => Err(Unmet::Rejected(rejection)),
            Some(_) => Err(Unmet::Refused(
                "its first frame is neither Welcome nor Reject".into(),
            )),
            None => Err(unreachable("it closed the connection without an answer".into())),
        }
    }
}

fn went_alone() -> Refusal {
    Refusal {
        kind: RefusalKind::WrongRole,
        message: "this node went on alone meanwhile; connect again to bring the secondary to its state"
            .into(),
    }
}

pub(super) fn system(attempt: &str, error: impl std::fmt::Display) -> Refusal {
    Refusal {
        kind: RefusalKind::System,
        message: format!("cannot {attempt}: {error}"),
    }
}
