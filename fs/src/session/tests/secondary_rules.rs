//! Single rules of a secondary, and what each of its states makes of each event.

use super::primary_rules::{GENERATION, SESSION, START, applied, create, sync, write};
use crate::config::Durability;
use crate::operation::{InodeId, Number, Operation};
use crate::session::secondary::{self, Over, Secondary};
use crate::wire::message::{Answer, Rejection, SessionId, Start, ToPrimary, ToSecondary};
use std::time::Duration;

/// A secondary and what it asked for.
struct There {
    secondary: Secondary,
    now: Duration,
    actions: Vec<secondary::Action>,
}

impl There {
    fn idle() -> Self {
        There {
            secondary: Secondary::new(vec![Durability::Disk]),
            now: START,
            actions: Vec::new(),
        }
    }

    fn serving() -> Self {
        let mut there = There::idle();
        there.fresh(SESSION).event(secondary::Event::Noted);
        assert!(matches!(there.actions[..], [secondary::Action::Welcome { .. }]));
        there
    }

    fn event(&mut self, event: secondary::Event) -> &mut Self {
        self.actions.clear();
        self.secondary.apply(event, self.now, &mut self.actions);
        self
    }

    fn fresh(&mut self, session: SessionId) -> &mut Self {
        let start = Start::Fresh {
            generation: GENERATION,
            clean: true,
        };
        self.event(secondary::Event::Hello { session, start })
    }

    fn resume(&mut self, confirmed: u64) -> &mut Self {
        let start = Start::Resume {
            confirmed: Number(confirmed),
        };
        self.event(secondary::Event::Hello {
            session: SESSION,
            start,
        })
    }

    fn take(&mut self, number: u64, confirmed: u64, operation: Operation) -> &mut Self {
        self.event(secondary::Event::Received(ToSecondary::Operation {
            number: Number(number),
            confirmed: Number(confirmed),
            introduced: vec![],
            operation,
        }))
    }

    fn done(&mut self, number: u64) -> &mut Self {
        self.event(secondary::Event::Done {
            number: Number(number),
            outcome: applied(0),
        })
    }

    fn applies(&self) -> Vec<u64> {
        let applies = self.actions.iter().filter_map(|action| match action {
            secondary::Action::Apply { number, .. } => Some(number.0),
            _ => None,
        });
        applies.collect()
    }

    fn answers(&self) -> Vec<u64> {
        let answers = self.actions.iter().filter_map(|action| match action {
            secondary::Action::Send(ToPrimary::Answers { answers, .. })
            | secondary::Action::Welcome { answers, .. } => Some(answers),
            _ => None,
        });
        answers.flatten().map(|answer| answer.number.0).collect()
    }

    fn over(&self) -> Option<&Over> {
        self.actions.iter().find_map(|action| match action {
            secondary::Action::SessionOver(over) => Some(over),
            _ => None,
        })
    }
}

#[test]
fn a_number_sent_again_is_answered_again_and_never_applied_again() {
    let mut there = There::serving();
    there.take(1, 0, create(2)).done(1);
    there.take(2, 0, write(2));
    assert_eq!(there.applies(), [2]);
    there.event(secondary::Event::LinkLost).resume(0);
    assert_eq!(there.answers(), [1]);
    assert!(there.take(1, 0, create(2)).applies().is_empty());
    assert!(there.take(2, 0, write(2)).applies().is_empty());
    assert_eq!(there.take(3, 0, write(3)).applies(), [3]);
    there.done(2).event(secondary::Event::Flush);
    assert_eq!(there.answers(), [1, 2]);
}

#[test]
fn what_ends_while_there_is_no_connection_is_answered_in_the_next_welcome() {
    let mut there = There::serving();
    there.take(1, 0, create(2)).take(2, 0, write(2));
    there.event(secondary::Event::LinkLost).done(1);
    assert_eq!(there.applies(), [2], "the queue goes on");
    there.resume(0);
    let expected = secondary::Action::Welcome {
        prefix: Number(1),
        answers: vec![Answer {
            number: Number(1),
            outcome: applied(0),
            took_us: 0,
        }],
        received: vec![Number(2)],
    };
    assert_eq!(there.actions, [expected]);
}

#[test]
fn answers_go_out_together_and_are_dropped_once_confirmed() {
    let mut there = There::serving();
    there
        .take(1, 0, create(2))
        .take(2, 0, write(8))
        .take(3, 0, write(9))
        .done(3)
        .done(1);
    assert_eq!(there.event(secondary::Event::Flush).answers(), [3, 1]);
    assert!(there.event(secondary::Event::Flush).actions.is_empty());
    there.take(4, 1, write(7));
    assert_eq!(there.resume(1).answers(), [3]);
}

#[test]
fn numbers_that_skip_or_go_backwards_and_false_confirmations_end_the_session() {
    for (number, confirmed) in [(3, 0), (1, 0), (0, 0), (2, 2)] {
        let mut there = There::serving();
        there
            .take(1, 0, create(2))
            .done(1)
            .take(number, confirmed, write(2));
        assert!(
            matches!(there.over(), Some(Over::Broken { .. })),
            "{number} {confirmed}"
        );
        there.resume(0);
        assert_eq!(
            there.actions,
            [secondary::Action::Refuse(Rejection::UnknownSession)]
        );
    }
    let mut there = There::serving();
    there
        .take(1, 0, create(2))
        .event(secondary::Event::Received(ToSecondary::End));
    assert!(
        matches!(there.actions[..], [secondary::Action::Close { .. }]),
        "something is unanswered"
    );
}

#[test]
fn at_the_bound_the_connection_is_closed_and_the_session_stays() {
    let mut there = There::serving();
    for number in 1..=secondary::QUEUED_OPERATIONS_MAX as u64 {
        there.take(number, 0, write(2));
    }
    there.take(secondary::QUEUED_OPERATIONS_MAX as u64 + 1, 0, write(2));
    assert!(matches!(there.actions[..], [secondary::Action::Close { .. }]));
    assert_eq!(
        there.secondary.phase(),
        secondary::Phase::Serving {
            linked: false,
            copying: false
        }
    );
    there.resume(0);
    assert!(matches!(there.actions[..], [secondary::Action::Welcome { .. }]));
}

#[test]
fn a_new_session_begins_only_when_the_former_one_has_left_the_kernel() {
    let mut there = There::serving();
    there.take(1, 0, create(2)).take(2, 0, write(2));
    there.fresh(SessionId([4; 16]));
    assert_eq!(
        there.actions,
        [secondary::Action::Refuse(Rejection::StillRunning)]
    );
    there.fresh(SessionId([4; 16]));
    assert_eq!(
        there.actions,
        [secondary::Action::Refuse(Rejection::StillRunning)]
    );
    there.done(1);
    assert_eq!((there.over(), there.applies()), (Some(&Over::Replaced), vec![]));
    there.fresh(SessionId([4; 16]));
    assert_eq!(there.actions, [secondary::Action::NoteOpen]);
}

#[test]
fn a_first_welcome_that_was_lost_is_given_again() {
    let mut there = There::serving();
    assert!(there.secondary.is_untouched());
    there.event(secondary::Event::LinkLost).fresh(SessionId([5; 16]));
    assert!(there.actions.contains(&secondary::Action::NoteOpen));
    there.event(secondary::Event::Noted).take(1, 0, create(2));
    assert!(!there.secondary.is_untouched());
}

#[test]
fn leaving_lets_the_kernel_end_drops_the_queue_and_answers_nothing() {
    let mut there = There::serving();
    there.take(1, 0, create(2)).take(2, 0, write(2));
    there.event(secondary::Event::Leave {
        reason: "promoted".into(),
    });
    assert_eq!(there.over(), None);
    assert_eq!(there.take(3, 0, write(5)).actions, []);
    there.done(1);
    assert_eq!((there.answers(), there.applies()), (vec![], vec![]));
    assert!(matches!(there.over(), Some(Over::Left { .. })));
}

#[test]
fn a_clean_end_is_noted_before_it_is_answered_and_answered_again_when_asked_again() {
    let mut there = There::serving();
    there
        .take(1, 0, create(2))
        .done(1)
        .event(secondary::Event::Received(ToSecondary::End));
    assert!(matches!(
        there.actions[..],
        [secondary::Action::Send(_), secondary::Action::NoteClean]
    ));
    there.event(secondary::Event::Noted);
    assert_eq!(there.actions[0], secondary::Action::Send(ToPrimary::Ended));
    there.resume(1);
    assert!(matches!(
        there.actions[..],
        [secondary::Action::Welcome {
            prefix: Number(1),
            ..
        }]
    ));
    there.event(secondary::Event::Received(ToSecondary::End));
    assert_eq!(there.actions, [secondary::Action::Send(ToPrimary::Ended)]);
}

#[test]
fn parting_is_noted_before_it_is_answered() {
    let mut there = There::serving();
    there
        .take(1, 0, create(2))
        .event(secondary::Event::Received(ToSecondary::Part {
            generation: GENERATION,
            reason: "x".into(),
        }));
    assert!(matches!(
        there.actions[..],
        [secondary::Action::NoteOutdated { .. }]
    ));
    there.event(secondary::Event::Noted);
    assert_eq!(there.actions, [secondary::Action::Send(ToPrimary::Parted)]);
    there.done(1);
    assert!(matches!(there.over(), Some(Over::Parted { .. })));
}

#[test]
fn a_sync_in_a_directory_with_memory_durability_needs_no_disk() {
    let mut there = There::idle();
    there.secondary = Secondary::new(vec![Durability::Memory, Durability::Disk]);
    there
        .fresh(SESSION)
        .event(secondary::Event::Noted)
        .take(1, 0, create(5))
        .done(1);
    assert!(there.take(2, 0, sync(5)).applies().is_empty());
    assert_eq!(there.take(3, 0, sync(2)).applies(), [3], "the second root");
    assert_eq!(there.event(secondary::Event::Flush).answers(), [1, 2]);
}

#[test]
fn every_state_of_a_secondary_takes_every_event() {
    use secondary::{Event, Phase};
    let draining = || {
        let mut there = There::serving();
        there
            .take(1, 0, create(2))
            .event(Event::Leave { reason: "x".into() });
        there
    };
    let closing = || {
        let mut there = There::serving();
        there.event(Event::Received(ToSecondary::End));
        there
    };
    let states = || {
        let mut opening = There::idle();
        opening.fresh(SESSION);
        let mut unlinked = There::serving();
        unlinked.event(Event::LinkLost);
        let mut ended = closing();
        ended.event(Event::Noted);
        vec![
            There::idle(),
            opening,
            There::serving(),
            unlinked,
            draining(),
            closing(),
            ended,
        ]
    };
    let copy = Start::Copy {
        generation: GENERATION,
        base: None,
        overwrite: false,
        tracked: false,
    };
    let copying = || {
        let mut there = There::idle();
        there.event(Event::Hello {
            session: SESSION,
            start: copy.clone(),
        });
        there.event(Event::Noted);
        there
    };
    let complete = ToSecondary::Complete {
        generation: GENERATION,
    };
    let completing = || {
        let mut there = copying();
        there.event(Event::Received(complete.clone()));
        there
    };
    let states = || {
        let mut all = states();
        all.extend([copying(), completing()]);
        all
    };
    let hello = |session, start| Event::Hello { session, start };
    let other = SessionId([8; 16]);
    let fresh = Start::Fresh {
        generation: GENERATION,
        clean: true,
    };
    let resume = Start::Resume { confirmed: Number(0) };
    let part = ToSecondary::Part {
        generation: GENERATION,
        reason: "x".into(),
    };
    let ping = ToSecondary::Ping {
        nonce: 1,
        confirmed: Number(0),
    };
    // Columns: idle, opening, serving, serving without a connection, draining, closing, ended, copying, completing.
    let table = [
        (
            hello(other, fresh),
            "open open open open drain close open open drain",
        ),
        (
            hello(other, copy.clone()),
            "open open open open drain close open open drain",
        ),
        (
            Event::Received(complete.clone()),
            "idle open serve unlinked drain close ended copy copy",
        ),
        (
            Event::RequestDone,
            "idle open serve unlinked idle close ended copy copy",
        ),
        (
            hello(SESSION, resume.clone()),
            "idle open serve serve drain close ended copy copy",
        ),
        (
            hello(other, resume),
            "idle open serve unlinked drain close ended copy copy",
        ),
        (
            Event::Received(ping),
            "idle open serve unlinked drain close ended copy copy",
        ),
        (
            Event::Received(ToSecondary::Forget(vec![InodeId(5)])),
            "idle open serve unlinked drain close ended copy copy",
        ),
        (
            Event::Received(ToSecondary::End),
            "idle open close unlinked drain close ended idle drain",
        ),
        (
            Event::Received(part),
            "idle open drain unlinked drain close ended drain drain",
        ),
        (
            Event::LinkLost,
            "idle open unlinked unlinked drain close ended copy copy",
        ),
        (
            Event::Done {
                number: Number(1),
                outcome: applied(0),
            },
            "idle open serve unlinked idle close ended copy copy",
        ),
        (
            Event::Flush,
            "idle open serve unlinked drain close ended copy copy",
        ),
        (
            Event::Noted,
            "idle serve serve unlinked drain ended ended copy serve",
        ),
        (
            Event::NoteFailed { reason: "x".into() },
            "idle idle serve unlinked drain idle ended copy idle",
        ),
        (
            Event::Leave { reason: "x".into() },
            "idle idle idle idle drain idle idle idle drain",
        ),
    ];
    for (event, expected) in table {
        for (mut there, expected) in states().into_iter().zip(expected.split(' ')) {
            let before = there.secondary.phase();
            there.event(event.clone());
            let after = match there.secondary.phase() {
                Phase::Idle => "idle",
                Phase::Opening => "open",
                Phase::Serving { copying: true, .. } => "copy",
                Phase::Serving { linked: true, .. } => "serve",
                Phase::Serving { linked: false, .. } => "unlinked",
                Phase::Draining => "drain",
                Phase::Closing => "close",
                Phase::Ended => "ended",
            };
            assert_eq!(after, expected, "{event:?} in {before:?}");
        }
    }
}
