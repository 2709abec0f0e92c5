//! Joining a secondary by a copy: the connections, one attempt after the other until the pair is in sync or somebody
//! says otherwise, and what the copy asks of the primary.

use super::connection::{Unmet, system};
use super::*;
use crate::link::Purpose;
use crate::resync::lane::{CopyError, Lane};
use crate::resync::pace::Pace;
use crate::resync::progress::{Orders, Progress};
use crate::resync::source::{Known, Session, Source};
use crate::session::claims::{ClaimId, Scope};
use crate::session::coverage::{Brought, Rest};
use crate::session::loss::LossKind;
use crate::wire::bulk::{Open, ToSource, ToTarget};
use std::sync::atomic::AtomicU64;

/// Connections, and threads, of a copy.
const LANES: usize = 4;
/// Pauses between attempts at a copy that was interrupted.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What a replicator keeps for copies.
#[derive(Default)]
pub(super) struct Copies {
    /// What was ordered; for every copy.
    pub(super) orders: Orders,
    /// How much of a copy is under way.
    pub(super) pace: Pace,
    /// Ends the pause before the next attempt.
    pub(super) hasten: tokio::sync::Notify,
    /// What the dirty map names was not enough for the copy that is wanted.
    whole: AtomicBool,
    /// How the last one ended that was complete.
    last: Mutex<Option<crate::control::status::Copy>>,
    /// The one that is wanted: from `connect` to its end.
    wanted: Mutex<Option<Wanted>>,
}

#[derive(Clone)]
struct Wanted {
    progress: Arc<Progress>,
    /// Why the last attempt ended.
    interrupted: Option<String>,
}

/// One attempt, as the source sees it.
struct Attempt {
    replicator: Arc<Replicator>,
    next_claim: AtomicU64,
}

impl Copies {
    fn wanted(&self) -> MutexGuard<'_, Option<Wanted>> {
        // Replaced whole.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No further attempt is made.
    pub(super) fn give_up(&self) {
        *self.wanted() = None;
    }
}

impl Replicator {
    /// How the copy goes on, if one is wanted.
    pub fn copy_status(&self) -> Option<crate::control::status::Copy> {
        let wanted = self.copies.wanted().clone()?;
        let mut status = wanted.progress.show(&self.copies.orders);
        status.interrupted = wanted.interrupted;
        status.hurries = self.copies.pace.hurries();
        status.held_back = self.copies.pace.is_held_back();
        Some(status)
    }

    /// The last copy that was complete.
    pub fn last_copy(&self) -> Option<crate::control::status::Copy> {
        // Replaced whole.
        let last = self.copies.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    /// What the dirty map says, while this node is alone.
    pub fn tracking(&self) -> Option<crate::control::status::Tracking> {
        let inner = self.lock();
        let is_alone = matches!(inner.primary.phase(), Phase::Alone(_) | Phase::Copying(_));
        is_alone.then(|| match inner.primary.tracked() {
            Some((marked_files, marked_bytes)) => crate::control::status::Tracking {
                everything: false,
                marked_files,
                marked_bytes,
            },
            None => crate::control::status::Tracking {
                everything: true,
                marked_files: 0,
                marked_bytes: 0,
            },
        })
    }

    fn copy_complete(&self) {
        let copy = self.copy_status();
        self.copies.give_up();
        if let Some(copy) = &copy {
            let (sent, skipped) = (copy.bytes_sent.unwrap_or(0), copy.bytes_skipped.unwrap_or(0));
            let tracked = copy.tracked == Some(true);
            let how = if tracked {
                "what had changed"
            } else {
                "everything, compared"
            };
            let message =
                format!("the copy is complete ({how}): {sent} bytes sent, {skipped} were there already");
            let what = What::CopyComplete {
                tracked,
                bytes_sent: sent,
                bytes_skipped: skipped,
            };
            self.reporter.report(what, message);
        }
        *self.copies.last.lock().unwrap_or_else(PoisonError::into_inner) = copy;
    }

    /// Whether copies are done as soon as can be, or yield to the application.
    pub fn hurry_copies(&self, hurry: bool) {
        self.copies.pace.hurry(hurry);
    }

    /// Orders about copies.
    pub fn copy_orders(&self) -> &Orders {
        &self.copies.orders
    }

    /// Brings the secondary to this node's state, which is alone; in sync when this returns well. What the first
    /// attempt runs into is the caller's; later ones are made until one succeeds or this node is told otherwise.
    pub(super) async fn join_by_copy(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        premises: Premises,
        overwrite: bool,
    ) -> Result<(), Refusal> {
        // Its threads may still be on their way out, and it shares what is kept for copies.
        self.stop_verification("a copy begins").await;
        let mut over = self.over.subscribe();
        *self.copies.wanted() = Some(Wanted {
            progress: Arc::default(),
            interrupted: None,
        });
        let mut pause = RETRY_FIRST;
        let mut first = true;
        // What a person wants overwritten is compared as a whole.
        self.copies.whole.store(overwrite, Ordering::Release);
        loop {
            let attempt = self.attempt(endpoint, &premises, overwrite && first);
            let result = tokio::select! {
                result = attempt => result,
                _ = over.wait_for(|over| *over) => Err(Ended::Over),
            };
            let reason = match result {
                Ok(()) => {
                    self.copy_complete();
                    return Ok(());
                }
                Err(Ended::Over) => {
                    self.copies.give_up();
                    return Err(not_joined("this node was told otherwise"));
                }
                Err(Ended::NeedsWhole(why)) => {
                    info!(%why, "everything is compared");
                    self.copies.whole.store(true, Ordering::Release);
                    if let Some(wanted) = &mut *self.copies.wanted() {
                        wanted.progress = Arc::default();
                    }
                    continue;
                }
                Err(Ended::Refused(refusal)) if first => {
                    self.copies.give_up();
                    return Err(refusal);
                }
                Err(Ended::Refused(refusal)) => {
                    self.report_waiting(&refusal.message);
                    refusal.message
                }
                Err(Ended::Interrupted(reason)) => {
                    first = false;
                    reason
                }
            };
            match &mut *self.copies.wanted() {
                Some(wanted) => {
                    *wanted = Wanted {
                        progress: Arc::default(),
                        interrupted: Some(reason),
                    };
                }
                None => return Err(not_joined(&reason)),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.copies.hasten.notified() => pause = RETRY_FIRST,
                _ = over.wait_for(|over| *over) => {}
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// A copy that is to begin anew waits for a reason that is not the last one.
    fn report_waiting(&self, why: &str) {
        let known = self
            .copies
            .wanted()
            .as_ref()
            .is_some_and(|wanted| wanted.interrupted.as_deref() == Some(why));
        if !known {
            let message = format!("the copy to the secondary does not begin anew yet: {why}");
            self.reporter.report(What::Warning, message);
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        premises: &Premises,
        overwrite: bool,
    ) -> Result<(), Ended> {
        let Some(wanted) = self.copies.wanted().clone() else {
            return Err(Ended::Over);
        };
        let record = self.keeper.current();
        let (true, Some(generation)) = (record.peer_lacks_data, record.generation) else {
            return Err(Ended::Refused(not_joined(
                "this node's record does not say that it is alone",
            )));
        };
        let session = random_bytes()
            .map(SessionId)
            .map_err(|error| Ended::Refused(system("make a session's number", error)))?;
        let plan = match self.copies.whole.load(Ordering::Acquire) {
            true => None,
            false => self.lock().primary.copy_plan().filter(|_| record.tracked),
        };
        let start = Start::Copy {
            generation,
            base: record.base,
            overwrite,
            tracked: plan.is_some(),
        };
        let met = self.meet_settled(endpoint, premises, session, &start).await;
        let (sender, receiver, welcome) = match met {
            Err(Unmet::Rejected(Rejection::FullCopyNeeded(why))) if plan.is_some() => {
                return Err(Ended::NeedsWhole(why));
            }
            met => met.map_err(|unmet| Ended::Refused(self.refusal(unmet)))?,
        };
        for warning in admission::identity_warnings(&premises.identities, &welcome.identities) {
            self.reporter.report(What::Warning, warning);
        }
        if self.copies.wanted().is_none() {
            return Err(Ended::Over);
        }
        let known = plan.map(|(plan, peers, names_moved)| Known {
            plan,
            peers,
            places: !names_moved,
        });
        let tracked = known.is_some();
        if tracked {
            wanted.progress.set_tracked();
            // Before the first name can change there.
            let replicator = self.clone();
            let noted = tokio::task::spawn_blocking(move || {
                if !replicator.write_marks(Primary::write_names) {
                    return Err("the dirty map cannot be written".to_owned());
                }
                let moved = replicator.maps.set_names_moved(generation, &[]);
                moved.map_err(|error| error.to_string())
            });
            match noted.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Ended::NeedsWhole(error)),
                Err(error) => return Err(Ended::NeedsWhole(error.to_string())),
            }
        }
        self.store.begin_index();
        let mut phases = self.phases();
        let connection = self.begin(sender, Event::CopyBegun { session, tracked });
        tokio::spawn(
            self.clone()
                .keep(connection, receiver, endpoint.clone(), premises.clone(), session),
        );
        let lanes = self.lanes(endpoint, session).await;
        let result = match lanes {
            Ok(lanes) => self.copy(lanes, wanted.progress, known).await,
            Err(error) => Err(error),
        };
        let needs_whole = matches!(result, Err(CopyError::NeedsWhole(_)));
        if let Err(error) = result {
            let (kind, detail) = (loss_kind(&error), error.to_string());
            self.event(Event::CopyBroken(Loss { kind, detail }), Runs::Task);
        }
        // Until the secondary has noted that it is complete, or the copy has failed.
        let settled = |phase: &Phase| match phase {
            Phase::InSync { .. }
            | Phase::Alone(_)
            | Phase::Ended
            | Phase::Failed { .. }
            | Phase::NoSession => true,
            // The session of the copy may still go on.
            Phase::Copying(_)
            | Phase::Joining
            | Phase::Disconnected
            | Phase::Deciding(_)
            | Phase::Parting(_) => false,
        };
        let phase = match phases.wait_for(settled).await {
            Ok(phase) => phase.clone(),
            Err(_) => Phase::Ended,
        };
        self.lock().claims.clear();
        self.store.end_index();
        match phase {
            Phase::InSync { .. } => Ok(()),
            Phase::Alone(_) if needs_whole => Err(Ended::NeedsWhole(self.last_copy_failure())),
            Phase::Alone(_) => Err(Ended::Interrupted(self.last_copy_failure())),
            Phase::Ended | Phase::Failed { .. } | Phase::NoSession => Err(Ended::Over),
            Phase::Copying(_)
            | Phase::Joining
            | Phase::Disconnected
            | Phase::Deciding(_)
            | Phase::Parting(_) => Err(Ended::Interrupted("the copy did not end".into())),
        }
    }

    fn last_copy_failure(&self) -> String {
        let inner = self.lock();
        inner
            .copy_failure
            .clone()
            .unwrap_or_else(|| "the secondary was lost at the end of the copy".into())
    }

    /// The bulk connections.
    pub(super) async fn lanes(
        &self,
        endpoint: &Endpoint,
        session: SessionId,
    ) -> Result<Vec<Lane>, CopyError> {
        let mut lanes = Vec::with_capacity(LANES);
        for _ in 0..LANES {
            lanes.push(self.lane(endpoint, session).await?);
        }
        Ok(lanes)
    }

    async fn lane(&self, endpoint: &Endpoint, session: SessionId) -> Result<Lane, CopyError> {
        let mut last = CopyError::Closed;
        for address in &self.config.peer.addresses {
            let connection = match endpoint.connect_for(Purpose::Bulk, *address).await {
                Ok(connection) => connection,
                Err(error) => {
                    last = error.into();
                    continue;
                }
            };
            let (mut sender, mut receiver) = connection.split::<ToTarget, ToSource>();
            let open = ToTarget::Open(Open {
                module: self.config.module.clone(),
                node: self.config.node.clone(),
                session,
            });
            sender.send([open.encode()?]).await?;
            return match receiver.next().await? {
                Some(ToSource::Opened) => Ok(Lane::new(sender, receiver, self.runtime.clone())),
                Some(ToSource::Refused { reason }) => Err(CopyError::Refused(reason)),
                Some(_) => Err(CopyError::Confused),
                None => Err(CopyError::Closed),
            };
        }
        Err(last)
    }

    async fn copy(
        self: &Arc<Self>,
        mut lanes: Vec<Lane>,
        progress: Arc<Progress>,
        known: Option<Known>,
    ) -> Result<(), CopyError> {
        let attempt = Attempt {
            replicator: self.clone(),
            next_claim: AtomicU64::new(1),
        };
        let copying = self.runtime.spawn_blocking(move || {
            let source = Source {
                session: &attempt,
                store: &*attempt.replicator.store,
                progress: &progress,
                orders: &attempt.replicator.copies.orders,
                pace: &attempt.replicator.copies.pace,
                binding: Mutex::default(),
                placed: AtomicU64::new(0),
                hunch: Default::default(),
                known,
                extent_bytes: attempt.replicator.config.extent_bytes,
            };
            source.pace.begin();
            let copied = source.run(&mut lanes);
            source.pace.end();
            copied
        });
        // A panic there is a mistake in this program; the copy is over all the same.
        copying.await.unwrap_or(Err(CopyError::Over))
    }

    /// Waits for a claim of a copy or a verification that goes on. The inodes of it that have no name any more.
    pub(super) fn wait_for_claim(
        self: &Arc<Self>,
        claim: ClaimId,
        scope: Scope,
        goes_on: impl FnOnce(&Primary) -> bool,
    ) -> Result<Vec<InodeId>, CopyError> {
        let (granted, wait) = oneshot::channel();
        let deferred = {
            let mut inner = self.lock();
            if !goes_on(&inner.primary) {
                return Err(CopyError::Over);
            }
            inner.claims.insert(claim, granted);
            self.step(&mut inner, Event::Claim { claim, scope })
        };
        self.carry_out(deferred, Runs::Task);
        // The sender goes when it is over.
        wait.blocking_recv().map_err(|_| CopyError::Over)
    }

    /// A new generation, which the peer may be on as well. Only a record that says "alone" is changed: whoever
    /// parted meanwhile has written another.
    pub(super) fn note_joined(&self) -> Event {
        let generation = match Generation::random() {
            Ok(generation) => generation,
            Err(error) => {
                return Event::JoinNoteFailed {
                    reason: error.to_string(),
                };
            }
        };
        // Also what was written here alone: the secondary's map does not name it should this node lose power now.
        if let Err(errno) = self.store.checkpoint() {
            return Event::JoinNoteFailed {
                reason: format!("this node's disk cannot be synced: {errno}"),
            };
        }
        let here = self.keeper.here();
        *self.joined_from.lock().unwrap_or_else(PoisonError::into_inner) = self.keeper.generation();
        let noted = self.keeper.update(|record| {
            if record.peer_lacks_data && !*self.over.borrow() {
                record.join(generation, Role::Primary, here);
            }
        });
        match noted {
            Ok(record) if record.generation == Some(generation) => Event::JoinNoted { generation },
            Ok(_) => Event::JoinNoteFailed {
                reason: "this node's record does not say any more that it is alone".into(),
            },
            Err(error) => Event::JoinNoteFailed {
                reason: error.to_string(),
            },
        }
    }
}

impl Session for Attempt {
    fn is_over(&self) -> bool {
        *self.replicator.over.borrow() || !matches!(*self.replicator.phase.borrow(), Phase::Copying(_))
    }

    fn begin_listing(&self, directory: InodeId) {
        self.replicator
            .event(Event::ListingBegun { directory }, Runs::Worker);
    }

    fn end_listing(&self, directory: InodeId) {
        self.replicator
            .event(Event::ListingEnded { directory }, Runs::Worker);
    }

    fn claim(&self, scope: Scope) -> Result<(ClaimId, Vec<InodeId>), CopyError> {
        let claim = ClaimId(self.next_claim.fetch_add(1, Ordering::Relaxed));
        let goes_on = |primary: &Primary| matches!(primary.phase(), Phase::Copying(_));
        Ok((claim, self.replicator.wait_for_claim(claim, scope, goes_on)?))
    }

    fn release(&self, claim: ClaimId, brought: Brought) {
        // What it lets go may be a slow operation of somebody else.
        self.replicator
            .event(Event::Release { claim, brought }, Runs::Task);
    }

    fn adopt(&self, root: usize, handle: &FileHandle) -> Result<InodeId, CopyError> {
        let mut inner = self.replicator.lock();
        let (inode, _) = self.replicator.store.adopt(root, handle);
        if inner.primary.pin(inode) {
            Ok(inode)
        } else {
            Err(CopyError::Over)
        }
    }

    fn is_bound(&self, inode: InodeId) -> bool {
        self.replicator.lock().primary.is_bound(inode)
    }

    fn is_gone(&self, inode: InodeId) -> bool {
        self.replicator.lock().primary.is_gone(inode)
    }

    fn is_clean(&self, directory: InodeId, name: &Name) -> bool {
        self.replicator.lock().primary.is_clean(directory, name)
    }

    fn is_fresh(&self, inode: InodeId) -> bool {
        self.replicator.lock().primary.is_fresh(inode)
    }

    fn place_of(&self, inode: InodeId) -> Option<(InodeId, Name)> {
        self.replicator.lock().primary.place_of(inode)
    }

    fn identified(&self, found: Vec<(InodeId, FileHandle)>) -> Result<(), CopyError> {
        let generation = self
            .replicator
            .keeper
            .current()
            .generation
            .ok_or(CopyError::Over)?;
        if let Err(error) = self.replicator.maps.set_names_moved(generation, &found) {
            return Err(CopyError::NeedsWhole(error.to_string()));
        }
        self.replicator.event(Event::Identified(found), Runs::Worker);
        Ok(())
    }

    fn mark_names(&self, directory: InodeId, names: &[Name]) -> Result<(), CopyError> {
        let marked = self
            .replicator
            .write_marks(|primary| primary.mark_names(directory, names));
        if marked {
            Ok(())
        } else {
            Err(CopyError::NeedsWhole(
                "the dirty map cannot be written".to_owned(),
            ))
        }
    }

    fn rest(&self) -> Rest {
        self.replicator.lock().primary.copy_rest()
    }

    fn done(&self) -> bool {
        self.replicator.event(Event::CopyDone, Runs::Worker);
        !matches!(self.replicator.lock().primary.phase(), Phase::Copying(_))
    }

    fn skipped_mount(&self, directory: InodeId, name: &Name) {
        let path = self.replicator.store.path(directory);
        let path = path.map_or_else(|| directory.to_string(), |path| path.display().to_string());
        let message = format!("{path}/{name} is a mount point; what lies below it is not copied");
        self.replicator.reporter.report(What::Warning, message);
    }
}

/// Why an attempt did not succeed.
enum Ended {
    /// The secondary cannot be reached, or says no.
    Refused(Refusal),
    /// It began, and is to be tried again.
    Interrupted(String),
    /// What the dirty map names is not enough.
    NeedsWhole(String),
    /// This node is not a primary any more, or was told to give up.
    Over,
}

fn not_joined(why: &str) -> Refusal {
    Refusal {
        kind: RefusalKind::WrongRole,
        message: format!("the pair is not in sync: {why}"),
    }
}

fn loss_kind(error: &CopyError) -> LossKind {
    use rustix::io::Errno as System;
    match error {
        CopyError::Target { errno, .. }
            if [System::NOSPC, System::DQUOT].map(Errno::from).contains(errno) =>
        {
            LossKind::NoSpace
        }
        CopyError::Link(_) | CopyError::Closed => LossKind::Unreachable,
        CopyError::Over => LossKind::Told,
        CopyError::Refused(_)
        | CopyError::Target { .. }
        | CopyError::Read { .. }
        | CopyError::Unsendable(_)
        | CopyError::Confused
        | CopyError::NeedsWhole(_)
        | CopyError::Stuck { .. } => LossKind::Failed,
    }
}
