//! The secondary's end of a session: takes numbered operations, runs each once in its lanes, answers.
//!
//! No I/O. One thread at a time uses it (`receiver.rs` holds the lock): events in, actions out, in order. What an
//! action asks for is reported back as an event: `Apply` by `Done`, the `Note...` ones by `Noted`.
//!
//! ```text
//!            Hello(fresh)          Noted               End                Noted
//!    Idle ----------------> Opening ----> Serving ------------> Closing ---------> Ended
//!     ^                                   |  | Part, Leave, a broken rule            | Hello(fresh)
//!     |    last running one has ended     |  v                                       v
//!     +---------------------------------- Draining                                Opening
//! ```

mod interface;
mod session;

use crate::config::Durability;
use crate::operation::{Number, Outcome};
use crate::wire::message::{Generation, Rejection, SessionId, Start, ToPrimary, ToSecondary};
pub use interface::{Action, Event, Over, Phase};
pub use session::{ANSWERS_MAX, QUEUED_BYTES_MAX, QUEUED_OPERATIONS_MAX};
use session::{Copying, Fault, Roots, Session};
use std::time::Duration;

/// The secondary; see the module.
#[derive(Debug)]
pub struct Secondary {
    state: State,
    durability: Vec<Durability>,
}

#[derive(Debug)]
enum State {
    /// No session.
    Idle,
    /// A session is allowed; that this copy is open is being written down.
    Opening {
        session: SessionId,
        /// By a copy.
        copy: bool,
    },
    /// A session is going on, with or without a connection.
    Serving(Box<Session>),
    /// The session is over: what is in the kernel ends, nothing is answered.
    Draining {
        running: usize,
        over: Over,
        noting: Noting,
    },
    /// Everything is answered and "clean" is being written down.
    Closing {
        session: SessionId,
        last: Number,
        linked: bool,
    },
    /// The session ended cleanly. A primary that missed the answer may ask again.
    Ended { session: SessionId, last: Number },
}

/// Whether a session that is over waits for its note, and who hears of it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Noting {
    /// No note, or it is on disk.
    Nothing,
    /// "Complete" is being written; what comes after it waits, so that the notes keep their order.
    Complete { then: Option<(Generation, String)> },
    /// "Outdated" is being written, and the primary waits for "parted".
    Outdated,
    /// It is being written and the primary's connection is gone.
    OutdatedUnheard,
}

impl Secondary {
    /// A secondary without a session; `durability` has one entry for each directory in the configuration.
    pub fn new(durability: Vec<Durability>) -> Self {
        Secondary {
            state: State::Idle,
            durability,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Idle => Phase::Idle,
            State::Opening { .. } => Phase::Opening,
            State::Serving(session) => Phase::Serving {
                linked: session.linked,
                copying: session.copying.is_some(),
            },
            State::Draining { .. } => Phase::Draining,
            State::Closing { .. } => Phase::Closing,
            State::Ended { .. } => Phase::Ended,
        }
    }

    /// The last number received in the present session.
    pub fn last_received(&self) -> Option<Number> {
        match &self.state {
            State::Serving(session) => Some(session.last),
            State::Closing { last, .. } | State::Ended { last, .. } => Some(*last),
            State::Idle | State::Opening { .. } | State::Draining { .. } => None,
        }
    }

    /// True when this copy is what it was before the present session, if there is one: none of its operations was
    /// received. The driver, which checks that two copies are equal before a fresh start, may then go by what its
    /// record said before, although that says "open" by now: the primary missed the first `Welcome`.
    pub fn is_untouched(&self) -> bool {
        match &self.state {
            State::Idle | State::Opening { .. } | State::Ended { .. } => true,
            State::Serving(session) => session.last == Number(0),
            State::Draining { .. } | State::Closing { .. } => false,
        }
    }

    /// Operations received and not ended.
    pub fn queue_depth(&self) -> usize {
        match &self.state {
            State::Serving(session) => session.unfinished.len(),
            State::Draining { running, .. } => *running,
            State::Idle | State::Opening { .. } | State::Closing { .. } | State::Ended { .. } => 0,
        }
    }

    /// Counts a request of a bulk connection in that is about to be carried out; [`Event::RequestDone`] counts it out.
    /// False when this session does not go on, or has no use for such a request: nothing may be done then. A request
    /// that `only_looks` is taken when this copy is whole, any other only while it is being brought over.
    pub fn begin_request(&mut self, id: SessionId, only_looks: bool) -> bool {
        match &mut self.state {
            State::Serving(session) if session.id == id => {
                let is_taken = match session.copying {
                    Some(Copying::Going) => true,
                    Some(Copying::Settling { .. } | Copying::Completing) => false,
                    None => only_looks,
                };
                session.requests += usize::from(is_taken);
                is_taken
            }
            State::Serving(_)
            | State::Idle
            | State::Opening { .. }
            | State::Draining { .. }
            | State::Closing { .. }
            | State::Ended { .. } => false,
        }
    }

    /// Takes an event at `now` (CLOCK_BOOTTIME) and appends what is to be done.
    pub fn apply(&mut self, event: Event, now: Duration, actions: &mut Vec<Action>) {
        match event {
            Event::Hello { session, start } => self.hello(session, start, actions),
            Event::Received(message) => self.received(message, now, actions),
            Event::LinkLost => self.link_lost(),
            Event::Done { number, outcome } => self.done(number, outcome, now, actions),
            Event::Flush => {
                if let State::Serving(session) = &mut self.state {
                    session.flush(actions);
                }
            }
            Event::RequestDone => self.request_done(actions),
            Event::Noted => self.noted(actions),
            Event::NoteFailed { reason } => self.note_failed(reason, actions),
            Event::Leave { reason } => self.leave(reason, actions),
        }
    }

    fn hello(&mut self, id: SessionId, start: Start, actions: &mut Vec<Action>) {
        match (&mut self.state, start) {
            (State::Idle | State::Ended { .. }, start @ (Start::Fresh { .. } | Start::Copy { .. })) => {
                self.open(id, &start, actions);
            }
            (State::Serving(session), start @ (Start::Fresh { .. } | Start::Copy { .. }))
                if session.id != id || session.last == Number(0) =>
            {
                self.end_session(Over::Replaced, actions);
                match &mut self.state {
                    State::Draining { .. } => actions.push(Action::Refuse(Rejection::StillRunning)),
                    _ => self.open(id, &start, actions),
                }
            }
            (State::Serving(session), Start::Resume { confirmed }) if session.id == id => {
                if confirmed > session.prefix {
                    let reason = format!("the primary confirms {confirmed} of {}", session.prefix);
                    self.end_session(Over::Broken { reason }, actions);
                    actions.push(Action::Refuse(Rejection::UnknownSession));
                    return;
                }
                session.confirm(confirmed);
                session.linked = true;
                session.connection_last = Number(0);
                session.unsent.clear();
                actions.push(Action::Welcome {
                    prefix: session.prefix,
                    answers: session.answers.values().cloned().collect(),
                    received: session.unfinished.keys().copied().collect(),
                });
            }
            (State::Ended { session, last }, Start::Resume { .. }) if *session == id => {
                let (session, last) = (*session, *last);
                actions.push(Action::Welcome {
                    prefix: last,
                    answers: Vec::new(),
                    received: Vec::new(),
                });
                self.state = State::Ended { session, last };
            }
            (State::Draining { .. } | State::Opening { .. } | State::Closing { .. }, _) => {
                actions.push(Action::Refuse(Rejection::StillRunning));
            }
            // A session's name is made anew for each fresh start, so this one is going on already.
            (State::Serving(_), Start::Fresh { .. } | Start::Copy { .. })
            | (State::Idle | State::Serving(_) | State::Ended { .. }, Start::Resume { .. }) => {
                actions.push(Action::Refuse(Rejection::UnknownSession));
            }
        }
    }

    fn open(&mut self, session: SessionId, start: &Start, actions: &mut Vec<Action>) {
        let copy = matches!(start, Start::Copy { .. });
        self.state = State::Opening { session, copy };
        actions.push(if copy {
            Action::NoteInconsistent
        } else {
            Action::NoteOpen
        });
    }

    fn request_done(&mut self, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Serving(session) => session.requests = session.requests.saturating_sub(1),
            State::Draining { running, .. } => {
                *running = running.saturating_sub(1);
                self.drained(actions);
            }
            State::Idle | State::Opening { .. } | State::Closing { .. } | State::Ended { .. } => {}
        }
    }

    fn received(&mut self, message: ToSecondary, now: Duration, actions: &mut Vec<Action>) {
        let session = match &mut self.state {
            State::Serving(session) => session,
            State::Ended { .. } => {
                // The answer to an earlier `End` was lost with its connection.
                match message {
                    ToSecondary::End => actions.push(Action::Send(ToPrimary::Ended)),
                    ToSecondary::Hello(_)
                    | ToSecondary::Operation { .. }
                    | ToSecondary::Ping { .. }
                    | ToSecondary::Forget(_)
                    | ToSecondary::Complete { .. }
                    | ToSecondary::Covered { .. }
                    | ToSecondary::Part { .. } => {}
                }
                return;
            }
            // What still arrives of an ended session is not applied and not answered.
            State::Idle | State::Opening { .. } | State::Draining { .. } | State::Closing { .. } => return,
        };
        if !session.linked {
            return;
        }
        let step = match message {
            ToSecondary::Hello(_) => Err(Fault::Broken("a second Hello on one connection".into())),
            ToSecondary::Operation {
                number,
                confirmed,
                introduced,
                operation,
            } => {
                if !introduced.is_empty() {
                    actions.push(Action::Introduced(introduced));
                }
                session.take(number, confirmed, operation, now, actions)
            }
            ToSecondary::Ping { nonce, confirmed } => session.checked_confirm(confirmed).map(|()| {
                session.flush(actions);
                actions.push(Action::Send(ToPrimary::Pong {
                    nonce,
                    prefix: session.prefix,
                    running: session.running(now),
                    rooms: Vec::new(),
                }));
            }),
            ToSecondary::Forget(inodes) => {
                session.roots.forget(&inodes);
                actions.push(Action::Forget(inodes));
                Ok(())
            }
            ToSecondary::End if session.copying.is_some() => {
                Err(Fault::Broken("End before the copy is complete".into()))
            }
            ToSecondary::End if session.unfinished.is_empty() => {
                session.flush(actions);
                actions.push(Action::NoteClean);
                self.state = State::Closing {
                    session: session.id,
                    last: session.last,
                    linked: true,
                };
                return;
            }
            ToSecondary::End => Err(Fault::Broken(format!(
                "End while {} operations are unanswered",
                session.unfinished.len()
            ))),
            // The driver keeps the marks.
            ToSecondary::Covered { .. } => Ok(()),
            ToSecondary::Complete { generation } => match &session.copying {
                None => {
                    actions.push(Action::Send(ToPrimary::Completed));
                    Ok(())
                }
                Some(Copying::Settling { .. } | Copying::Completing) => Ok(()),
                Some(Copying::Going) if session.requests == 0 => {
                    let after = session.last;
                    session.copying = Some(Copying::Settling { generation, after });
                    session.check_settled(actions);
                    Ok(())
                }
                Some(Copying::Going) => Err(Fault::Broken(format!(
                    "the copy is complete while {} of its requests are carried out",
                    session.requests
                ))),
            },
            ToSecondary::Part { generation, reason } => {
                let noting = if session.copying == Some(Copying::Completing) {
                    Noting::Complete {
                        then: Some((generation, reason.clone())),
                    }
                } else {
                    actions.push(Action::NoteOutdated {
                        generation,
                        reason: reason.clone(),
                    });
                    Noting::Outdated
                };
                let running = session.running_count();
                self.state = State::Draining {
                    running,
                    over: Over::Parted { generation, reason },
                    noting,
                };
                return;
            }
        };
        match step {
            Ok(()) => {}
            Err(Fault::Full(reason)) => {
                session.linked = false;
                actions.push(Action::Close { reason });
            }
            Err(Fault::Broken(reason)) => {
                let reason = format!("the primary broke the rules of the session: {reason}");
                actions.push(Action::Close {
                    reason: reason.clone(),
                });
                self.end_session(Over::Broken { reason }, actions);
            }
        }
    }

    fn link_lost(&mut self) {
        match &mut self.state {
            State::Serving(session) => {
                session.linked = false;
                session.unsent.clear();
            }
            State::Closing { linked, .. } => *linked = false,
            State::Draining { noting, .. } => {
                if *noting == Noting::Outdated {
                    *noting = Noting::OutdatedUnheard;
                }
            }
            State::Idle | State::Opening { .. } | State::Ended { .. } => {}
        }
    }

    fn done(&mut self, number: Number, outcome: Outcome, now: Duration, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Serving(session) => session.done(number, outcome, now, actions),
            State::Draining { running, .. } => {
                *running = running.saturating_sub(1);
                self.drained(actions);
            }
            State::Idle | State::Opening { .. } | State::Closing { .. } | State::Ended { .. } => {}
        }
    }

    fn noted(&mut self, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Opening { session, copy } => {
                let mut session = Session::new(*session, Roots::new(&self.durability));
                session.copying = copy.then_some(Copying::Going);
                self.state = State::Serving(Box::new(session));
                actions.push(Action::Welcome {
                    prefix: Number(0),
                    answers: Vec::new(),
                    received: Vec::new(),
                });
            }
            State::Closing {
                session,
                last,
                linked,
            } => {
                if *linked {
                    actions.push(Action::Send(ToPrimary::Ended));
                }
                self.state = State::Ended {
                    session: *session,
                    last: *last,
                };
                actions.push(Action::SessionOver(Over::Clean));
            }
            State::Draining { .. } => {
                if self.next_note(actions) == Noting::Outdated {
                    actions.push(Action::Send(ToPrimary::Parted));
                }
                self.drained(actions);
            }
            State::Serving(session) => {
                if session.copying == Some(Copying::Completing) {
                    session.copying = None;
                    if session.linked {
                        actions.push(Action::Send(ToPrimary::Completed));
                    }
                }
            }
            State::Idle | State::Ended { .. } => {}
        }
    }

    /// A note of a session that is over is on disk, or failed: what waited for it goes on. Gives what it was.
    fn next_note(&mut self, actions: &mut Vec<Action>) -> Noting {
        let State::Draining { noting, .. } = &mut self.state else {
            return Noting::Nothing;
        };
        let noted = std::mem::replace(noting, Noting::Nothing);
        if let Noting::Complete {
            then: Some((generation, reason)),
        } = &noted
        {
            *noting = Noting::Outdated;
            actions.push(Action::NoteOutdated {
                generation: *generation,
                reason: reason.clone(),
            });
        }
        noted
    }

    fn note_failed(&mut self, reason: String, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Opening { .. } => {
                self.state = State::Idle;
                actions.push(Action::Refuse(Rejection::Unfit(reason.clone())));
                actions.push(Action::SessionOver(Over::NoteFailed { reason }));
            }
            State::Closing { .. } => {
                self.state = State::Idle;
                actions.push(Action::Close {
                    reason: reason.clone(),
                });
                actions.push(Action::SessionOver(Over::NoteFailed { reason }));
            }
            State::Draining { .. } => {
                self.next_note(actions);
                self.drained(actions);
            }
            State::Serving(session) => {
                if session.copying == Some(Copying::Completing) {
                    if session.linked {
                        actions.push(Action::Send(ToPrimary::Leaving {
                            reason: reason.clone(),
                        }));
                        actions.push(Action::Close {
                            reason: reason.clone(),
                        });
                    }
                    session.copying = None;
                    self.end_session(Over::NoteFailed { reason }, actions);
                }
            }
            State::Idle | State::Ended { .. } => {}
        }
    }

    fn leave(&mut self, reason: String, actions: &mut Vec<Action>) {
        match &mut self.state {
            State::Serving(session) => {
                if session.linked {
                    actions.push(Action::Send(ToPrimary::Leaving {
                        reason: reason.clone(),
                    }));
                    actions.push(Action::Close {
                        reason: reason.clone(),
                    });
                }
                self.end_session(Over::Left { reason }, actions);
            }
            State::Draining { .. } => {}
            State::Idle | State::Ended { .. } => {
                self.state = State::Idle;
                actions.push(Action::SessionOver(Over::Left { reason }));
            }
            State::Opening { .. } | State::Closing { .. } => {
                actions.push(Action::Close {
                    reason: reason.clone(),
                });
                self.state = State::Idle;
                actions.push(Action::SessionOver(Over::Left { reason }));
            }
        }
    }

    /// Drops what is queued and waits for what is in the kernel.
    fn end_session(&mut self, over: Over, actions: &mut Vec<Action>) {
        let State::Serving(session) = &self.state else {
            return;
        };
        let noting = if session.copying == Some(Copying::Completing) {
            Noting::Complete { then: None }
        } else {
            Noting::Nothing
        };
        self.state = State::Draining {
            running: session.running_count(),
            over,
            noting,
        };
        self.drained(actions);
    }

    fn drained(&mut self, actions: &mut Vec<Action>) {
        if let State::Draining {
            running: 0,
            noting: Noting::Nothing,
            over,
        } = &self.state
        {
            actions.push(Action::SessionOver(over.clone()));
            self.state = State::Idle;
        }
    }
}
