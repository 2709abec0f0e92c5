//! A verification of both copies: its connections, its thread, and what it asks of the primary.

use super::*;
use crate::control::verification::{Report, Verification};
use crate::resync::lane::CopyError;
use crate::resync::verify::{Findings, Session, Verify};
use crate::session::claims::Scope;
use crate::session::coverage::Brought;

/// What a replicator keeps for verifications.
#[derive(Default)]
pub(super) struct Verifications {
    /// The last one, which may go on.
    last: Mutex<Option<Running>>,
}

#[derive(Clone)]
struct Running {
    findings: Arc<Findings>,
    /// Why it is to end, once it is.
    stopped: watch::Sender<Option<String>>,
    /// It has ended.
    ended: watch::Receiver<bool>,
}

impl Verifications {
    fn last(&self) -> MutexGuard<'_, Option<Running>> {
        // Replaced whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that goes on, if one does, is to end.
    pub(super) fn stopped(&self, reason: String) {
        if let Some(running) = &*self.last() {
            running.stopped.send_if_modified(|stopped| {
                let first = stopped.is_none();
                stopped.get_or_insert(reason);
                first
            });
        }
    }
}

/// A verification, as the comparing threads see it.
struct Attempt {
    replicator: Arc<Replicator>,
    stopped: watch::Receiver<Option<String>>,
    next_claim: AtomicU64,
}

impl Replicator {
    /// Begins to compare both copies completely, and to mend what differs if `repair`.
    ///
    /// # Errors
    /// When the pair is not in sync, or one goes on.
    pub fn verify(self: &Arc<Self>, repair: bool) -> Result<(), Refusal> {
        let (session, endpoint) = {
            let inner = self.lock();
            let phase = inner.primary.phase();
            let session = inner.primary.resumable().map(|(session, _)| session);
            match (&phase, session, self.endpoint.get()) {
                (Phase::InSync { .. }, Some(session), Some(endpoint)) => (session, endpoint.clone()),
                _ => {
                    return Err(Refusal {
                        kind: RefusalKind::WrongRole,
                        message: format!(
                            "only a pair in sync can be verified: {}. After connect, both copies are known to be equal \
                             as far as they were compared; verify again then",
                            describe(&phase)
                        ),
                    });
                }
            }
        };
        let (ended, has_ended) = watch::channel(false);
        let running = Running {
            findings: Arc::new(Findings::new(repair)),
            stopped: watch::Sender::new(None),
            ended: has_ended,
        };
        {
            let mut last = self.verifications.last();
            if last.as_ref().is_some_and(|last| !last.findings.has_ended()) {
                return Err(Refusal {
                    kind: RefusalKind::Busy,
                    message: "a verification goes on already; wait for it, or stop it with verify stop"
                        .into(),
                });
            }
            *last = Some(running.clone());
        }
        let what = if repair {
            "and repairs what differs"
        } else {
            "and reports what differs"
        };
        self.reporter.report(
            What::VerificationBegun { repair },
            format!("compares both copies completely, {what}"),
        );
        let replicator = self.clone();
        self.runtime.spawn(async move {
            let result = replicator
                .verify_to_end(&running, &endpoint, session, repair)
                .await;
            replicator.verification_ended(&running, result);
            ended.send_replace(true);
        });
        Ok(())
    }

    async fn verify_to_end(
        self: &Arc<Self>,
        running: &Running,
        endpoint: &Endpoint,
        session: SessionId,
        repair: bool,
    ) -> Result<(), CopyError> {
        let mut lanes = self.lanes(endpoint, session).await?;
        self.store.begin_index();
        self.event(Event::VerifyBegun, Runs::Task);
        let attempt = Attempt {
            replicator: self.clone(),
            stopped: running.stopped.subscribe(),
            next_claim: AtomicU64::new(1),
        };
        let findings = running.findings.clone();
        let comparing = self.runtime.spawn_blocking(move || {
            let replicator = &attempt.replicator;
            let (orders, pace) = (&replicator.copies.orders, &replicator.copies.pace);
            pace.begin();
            let tops = replicator.config.replicate.iter();
            let tops = tops.map(|replicate| replicate.dir.clone()).collect();
            let verify = Verify::new(&attempt, &replicator.store, &findings, orders, pace, repair, tops);
            let compared = verify.run(&mut lanes);
            pace.end();
            compared
        });
        // A panic there is a mistake in this program; the verification is over all the same.
        let result = comparing.await.unwrap_or(Err(CopyError::Over));
        if let Err(CopyError::Link(_) | CopyError::Closed) = &result {
            self.wait_for_verdict(running).await;
        }
        self.event(Event::VerifyEnded, Runs::Task);
        {
            let mut inner = self.lock();
            inner.mends.clear();
        }
        self.store.end_index();
        result
    }

    /// A connection breaks with the session, mostly, which then tells more: that takes as long as the session takes to
    /// notice.
    async fn wait_for_verdict(&self, running: &Running) {
        let mut stopped = running.stopped.subscribe();
        let told = tokio::time::timeout(self.config.peer_stall, stopped.wait_for(Option::is_some)).await;
        if told.is_err() {
            debug!("the connection of a verification broke, and the session goes on");
        }
    }

    fn verification_ended(&self, running: &Running, result: Result<(), CopyError>) {
        let error = match result {
            Ok(()) => None,
            Err(CopyError::Over) => {
                let stopped = running.stopped.borrow().clone();
                Some(stopped.unwrap_or_else(|| "it was cut short".to_owned()))
            }
            Err(error) => Some(match running.stopped.borrow().clone() {
                Some(reason) => format!("{reason} ({error})"),
                None => error.to_string(),
            }),
        };
        running.findings.end(error);
        let Verification {
            directories,
            files,
            bytes,
            differences,
            repaired,
            seconds,
            error,
            ..
        } = running.findings.verification(&self.copies.orders);
        let compared =
            format!("{directories} directories and {files} files with {bytes} bytes in {seconds:.1} s");
        let message = match (&error, differences) {
            (Some(error), _) => format!(
                "the verification ended before its end: {error}. Until then it compared {compared} and found \
                 {differences} differences"
            ),
            (None, 0) => format!("both copies are equal: {compared}"),
            (None, _) => format!(
                "the copies differ in {differences} points, of which {repaired} are repaired: {compared}"
            ),
        };
        let what = What::VerificationEnded {
            complete: error.is_none(),
            differences,
            repaired,
        };
        self.reporter.report(what, message);
    }

    /// Ends the verification that goes on, if one does, and waits for that.
    pub async fn stop_verification(&self, reason: &str) {
        self.verifications.stopped(reason.to_owned());
        self.verified().await;
    }

    /// Waits until no verification goes on.
    pub async fn verified(&self) {
        let running = self.verifications.last().clone();
        if let Some(mut running) = running
            && running.ended.wait_for(|ended| *ended).await.is_err()
        {
            debug!("a verification went away before its end");
        }
    }

    /// How far the last verification is, or how it ended.
    pub fn verification_status(&self) -> Option<Verification> {
        Some(self.verification()?.verification)
    }

    /// As [`Replicator::verification_status`], with what it found.
    pub fn verification(&self) -> Option<Report> {
        let running = self.verifications.last().clone()?;
        let mut report = running.findings.report(&self.copies.orders);
        report.verification.held_back = report.verification.running && self.copies.pace.is_held_back();
        Some(report)
    }
}

impl Session for Attempt {
    fn is_over(&self) -> bool {
        self.stopped.borrow().is_some() || *self.replicator.over.borrow()
    }

    fn claim(&self, scope: Scope) -> Result<(ClaimId, Vec<InodeId>), CopyError> {
        let claim = ClaimId(self.next_claim.fetch_add(1, Ordering::Relaxed));
        let gone = self
            .replicator
            .wait_for_claim(claim, scope, Primary::is_verifying)?;
        Ok((claim, gone))
    }

    fn release(&self, claim: ClaimId) {
        let brought = Brought::default();
        // What it lets go may be a slow operation of somebody else.
        self.replicator
            .event(Event::Release { claim, brought }, Runs::Task);
    }

    fn adopt(
        &self,
        root: usize,
        handle: &FileHandle,
        parent: InodeId,
        name: &Name,
    ) -> Result<InodeId, CopyError> {
        let mut inner = self.replicator.lock();
        if !inner.primary.is_verifying() {
            return Err(CopyError::Over);
        }
        let (inode, _) = self.replicator.store.adopt(root, handle);
        inner.primary.pin(inode);
        inner.primary.place(inode, parent, name);
        Ok(inode)
    }

    fn place_of(&self, inode: InodeId) -> Option<(InodeId, Name)> {
        self.replicator.lock().primary.place_of(inode)
    }

    fn moved(&self, most: usize) -> Vec<InodeId> {
        self.replicator.lock().primary.take_moved(most)
    }

    fn mend(&self, claim: ClaimId, operations: Vec<Operation>) -> Result<Result<(), String>, CopyError> {
        let (mended, wait) = oneshot::channel();
        let deferred = self.replicator.drive(|| {
            let mut inner = self.replicator.lock();
            if !inner.primary.is_verifying() {
                return None;
            }
            inner.mends.insert(claim, mended);
            Some(
                self.replicator
                    .step(&mut inner, Event::Mend { claim, operations }),
            )
        });
        self.replicator
            .carry_out(deferred.ok_or(CopyError::Over)?, Runs::Task);
        wait.blocking_recv().map_err(|_| CopyError::Over)
    }

    fn skipped_mount(&self, path: &str) {
        let message = format!("{path} is a mount point; what lies below it is not compared");
        self.replicator.reporter.report(What::Warning, message);
    }
}
