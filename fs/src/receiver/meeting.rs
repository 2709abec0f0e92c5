//! A primary that calls: what is compared, what is refused, and how its connection becomes the present one.

use super::*;

/// A connection whose `Hello` was taken and is not answered yet.
pub(super) struct Candidate {
    pub(super) present: Present,
    pub(super) generation: Option<Generation>,
    /// How much the copy that it asks for brings over.
    pub(super) kind: CopyKind,
    /// Checkpoints that the primary counted.
    pub(super) checkpoints: u64,
    /// The attributes of the primary's directories.
    pub(super) tops: Vec<Top>,
    pub(super) offers: Vec<Offer>,
    pub(super) identities: Identities,
    pub(super) node: String,
    pub(super) started: oneshot::Sender<bool>,
}

impl Candidate {
    /// Tells the caller why it is not welcomed.
    pub(super) fn turn_away(self, rejection: Rejection) {
        let queued = self.present.out.send(ToPrimary::Reject(rejection));
        debug!(queued = queued.is_ok(), "the refusal goes out");
        // The receiving end is gone when its connection is; then nobody waits for this either.
        let _ = self.started.send(false);
    }

    pub(super) fn turn_away_late(self) {
        let node = self.node.clone();
        let state = "changing its role".to_owned();
        self.turn_away(Rejection::NotSecondary { node, state });
    }
}

impl Shared {
    /// What both nodes compare before a session begins; gives warnings, and what this node loses by it.
    pub(super) fn admit(
        &self,
        hello: &Hello,
        premises: &Premises,
    ) -> Result<(Vec<String>, Loses), Rejection> {
        let mut warnings = admission::compare(&premises.offers, &hello.directories)?;
        warnings.extend(admission::identity_warnings(
            &premises.identities,
            &hello.identities,
        ));
        let mut loses = Loses::Nothing;
        if let Start::Fresh { .. } | Start::Copy { .. } = hello.start {
            let record = self
                .lock()
                .before
                .clone()
                .unwrap_or_else(|| self.keeper.current());
            let present = crate::record::Present {
                boot_id: self.keeper.here().boot_id,
                remembers: false,
                map_is_complete: false,
                peer_checkpoint: record.counted_by_peer(),
                empty: premises.offers.iter().all(|offer| offer.empty),
                foreign: premises.foreign.is_some(),
                changed: premises.changed,
            };
            self.show_split(record.split(&present, &hello.copy, self.policy));
            let foreign = premises.foreign.as_deref();
            loses = record.admits(&present, foreign, &hello.start, &hello.copy, self.policy)?;
        }
        Ok((warnings, loses))
    }

    /// Hands a checked `Hello` in; gives the number of the connection.
    pub(super) fn hello(
        self: &Arc<Self>,
        hello: Hello,
        premises: Premises,
        out: Outbox<ToPrimary>,
        started: oneshot::Sender<bool>,
    ) -> u64 {
        let mut inner = self.lock();
        let connection = inner.next_connection;
        inner.next_connection += 1;
        let generation = match hello.start {
            Start::Fresh { generation, .. } | Start::Copy { generation, .. } => Some(generation),
            Start::Resume { .. } => None,
        };
        let tracked = matches!(hello.start, Start::Copy { tracked: true, .. });
        let candidate = Candidate {
            present: Present { connection, out },
            generation,
            kind: if tracked {
                CopyKind::Tracked
            } else {
                CopyKind::Whole
            },
            checkpoints: hello.copy.checkpoint,
            tops: hello.directories.iter().map(|offer| offer.top).collect(),
            offers: premises.offers,
            identities: premises.identities,
            node: premises.node,
            started,
        };
        if inner.closed {
            candidate.turn_away_late();
            return connection;
        }
        let mut candidate = Some(candidate);
        let mut actions = Vec::new();
        // An operation becomes ready only when one comes or ends.
        let mut work = VecDeque::new();
        let event = Event::Hello {
            session: hello.session,
            start: hello.start,
        };
        inner.secondary.apply(event, clock::now(), &mut actions);
        for action in actions {
            match action {
                // Both speak of this very connection, or of the earlier one once this one is pending.
                Action::NoteOpen | Action::NoteInconsistent => {
                    inner.pending = candidate.take();
                    self.run(&mut inner, action, &mut work);
                }
                Action::Welcome { .. } | Action::Refuse(_) => {
                    if candidate.is_some() {
                        std::mem::swap(&mut inner.pending, &mut candidate);
                    }
                    self.run(&mut inner, action, &mut work);
                    std::mem::swap(&mut inner.pending, &mut candidate);
                }
                other => self.run(&mut inner, other, &mut work),
            }
        }
        self.publish(&inner);
        connection
    }

    pub(super) fn welcome(
        &self,
        inner: &mut Inner,
        prefix: Number,
        answers: Vec<crate::wire::message::Answer>,
        received: Vec<Number>,
    ) {
        let Some(candidate) = inner.pending.take() else {
            warn!("a session began on a connection that is gone; the primary will call again");
            return;
        };
        let message = ToPrimary::Welcome(Welcome {
            node: candidate.node,
            prefix,
            answers,
            received,
            directories: candidate.offers,
            identities: candidate.identities,
        });
        if let Some(former) = inner.present.replace(candidate.present) {
            former.out.close("another connection took its place");
            debug!("the former connection is closed");
        }
        send(inner, message);
        if candidate.started.send(true).is_err() {
            debug!("the connection went away while it was welcomed");
        }
        if let Phase::Serving { copying: true, .. } = inner.secondary.phase() {
            self.reporter.report(
                What::CopyBegun,
                "the primary brings this node's copy to its own state; until the end it is mixed",
            );
        } else {
            self.reporter.report(
                What::InSync,
                "a session with the primary is going on; this copy is in sync",
            );
        }
    }

    pub(super) fn refuse(&self, inner: &mut Inner, rejection: Rejection) {
        let reason = rejection.to_string();
        self.reporter.report(
            What::PeerRefused {
                reason: reason.clone(),
            },
            format!("refused the primary: {reason}"),
        );
        if let Some(candidate) = inner.pending.take() {
            candidate.turn_away(rejection);
        }
    }
}

/// Sends a refusal and waits until the peer has it.
pub async fn reject(mut sender: link::Sender<ToPrimary>, rejection: Rejection) {
    let sent = match ToPrimary::Reject(rejection).encode() {
        Ok(encoded) => sender.send([encoded]).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let finished = match sent {
        Ok(()) => sender.finish().await.map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    if let Err(error) = finished {
        debug!(%error, "the refusal does not reach the primary");
    }
}
