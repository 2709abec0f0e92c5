//! Single rules of a primary, and what each of its states makes of each event.

use super::model::{EEXIST, EIO, ENOSPC, name, time};
use super::pair::{LOCAL_STALL, PEER_STALL};
use crate::config::OnPeerLoss;
use crate::operation::{
    Applied, Attributes, Create, Errno, FileHandle, InodeId, NodeKind, Number, Operation, Outcome, Unlink,
    Victim,
};
use crate::session::claims::{ClaimId, Scope};
use crate::session::coverage::Brought;
use crate::session::loss::{Loss, LossKind};
use crate::session::names::Seen;
use crate::session::primary::{self, Phase, Primary, Settings, Slot, Ticket};
use crate::wire::message::{
    Answer, Generation, Identities, Rejection, Running, SessionId, ToPrimary, ToSecondary, Welcome,
};
use bytes::Bytes;
use std::time::Duration;

pub(super) const SESSION: SessionId = SessionId([3; 16]);
pub(super) const GENERATION: Generation = Generation([9; 16]);
pub(super) const START: Duration = Duration::from_secs(100);

/// A primary at a moment, without anything around it.
pub(super) struct Here {
    pub(super) primary: Primary,
    now: Duration,
    pub(super) actions: Vec<primary::Action>,
    /// Records that the last event wrote.
    pub(super) marks: usize,
}

pub(super) fn welcome() -> Welcome {
    Welcome {
        node: "b".into(),
        prefix: Number(0),
        answers: vec![],
        received: vec![],
        directories: vec![],
        identities: Identities::default(),
    }
}

pub(super) fn applied(length: u64) -> Outcome {
    Outcome::Applied(Applied { length, handle: None })
}

pub(super) fn write(inode: u64) -> Operation {
    Operation::Write {
        inode: InodeId(inode),
        offset: 0,
        data: Bytes::from_static(b"abcd"),
        time: Some(time(1)),
        mode: None,
    }
}

pub(super) fn sync(inode: u64) -> Operation {
    Operation::Sync {
        inode: InodeId(inode),
        data_only: false,
    }
}

pub(super) fn create(inode: u64) -> Operation {
    Operation::Create(Create {
        parent: InodeId(1),
        name: name(&format!("f{inode}")),
        inode: InodeId(inode),
        kind: NodeKind::File,
        mode: 0o600,
        uid: 0,
        gid: 0,
        acls: vec![],
        time: time(1),
    })
}

fn unlink(inode: u64) -> Operation {
    Operation::Unlink(Unlink {
        parent: InodeId(1),
        name: name(&format!("f{inode}")),
        directory: false,
        victim: Victim {
            inode: InodeId(inode),
            last: true,
        },
        time: time(2),
    })
}

impl Here {
    fn new(on_peer_loss: OnPeerLoss) -> Self {
        Here::excluding(on_peer_loss, crate::exclude::nothing(1))
    }

    pub(super) fn excluding(on_peer_loss: OnPeerLoss, excluded: crate::exclude::PerDirectory) -> Self {
        let settings = Settings {
            peer_stall: PEER_STALL,
            local_stall: LOCAL_STALL,
            on_peer_loss,
            directories: 1,
            checkpoint_interval: Duration::from_secs(1 << 20),
            extent_bytes: crate::config::EXTENT_BYTES_DEFAULT,
        };
        Here {
            primary: Primary::excluding(settings, excluded),
            now: START,
            actions: Vec::new(),
            marks: 0,
        }
    }

    fn in_sync(on_peer_loss: OnPeerLoss) -> Self {
        let mut here = Here::new(on_peer_loss);
        here.event(primary::Event::Connected {
            session: SESSION,
            welcome: welcome(),
        });
        here
    }

    pub(super) fn event(&mut self, event: primary::Event) -> &mut Self {
        self.actions.clear();
        self.marks = 0;
        self.primary.apply(event, self.now, &mut self.actions);
        self.write_marks();
        self
    }

    /// Records of the dirty map are on disk at once.
    fn write_marks(&mut self) {
        let is_mark = |action: &primary::Action| matches!(action, primary::Action::Mark { .. });
        while let Some(at) = self.actions.iter().position(is_mark) {
            if let primary::Action::Mark { seq, records } = self.actions.remove(at) {
                self.marks += records.len();
                let marked = primary::Event::Marked { seq };
                self.primary.apply(marked, self.now, &mut self.actions);
            }
        }
    }

    pub(super) fn submit(&mut self, ticket: u64, operation: Operation) -> &mut Self {
        self.event(primary::Event::Submit {
            ticket: Ticket(ticket),
            operation,
        })
    }

    pub(super) fn answer(&mut self, number: u64, outcome: Outcome) -> &mut Self {
        let answer = Answer {
            number: Number(number),
            outcome,
            took_us: 1,
        };
        self.event(primary::Event::Received(ToPrimary::Answers {
            prefix: Number(0),
            answers: vec![answer],
        }))
    }

    pub(super) fn done(&mut self, slot: u64, outcome: Outcome) -> &mut Self {
        self.event(primary::Event::LocalDone {
            slot: Slot(slot),
            outcome,
        })
    }

    /// Makes file `inode` in sync, with one number and one slot.
    pub(super) fn made(&mut self, inode: u64, order: u64) -> &mut Self {
        self.submit(1000 + inode, create(inode));
        self.answer(order, applied(0));
        self.done(order, applied(0));
        assert!(self.replied(1000 + inode).is_some_and(|result| result.is_ok()));
        self
    }

    /// Ticks whenever it is due; `actions` is then what all of that asked for.
    fn at(&mut self, seconds: f64) -> &mut Self {
        let until = START + Duration::from_secs_f64(seconds);
        let mut all = Vec::new();
        while let Some(due) = self.primary.deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.event(primary::Event::Tick);
            all.append(&mut self.actions);
            assert_ne!(
                self.primary.deadline(),
                Some(due),
                "a deadline that does not pass"
            );
        }
        self.now = until;
        self.event(primary::Event::Tick);
        all.append(&mut self.actions);
        self.actions = all;
        self
    }

    pub(super) fn replied(&self, ticket: u64) -> Option<Result<Applied, Errno>> {
        self.actions.iter().find_map(|action| match action {
            primary::Action::Reply {
                ticket: Ticket(of),
                result,
            } if *of == ticket => Some(result.clone()),
            _ => None,
        })
    }

    pub(super) fn sent(&self) -> Vec<(u64, Operation)> {
        let sent = self.actions.iter().filter_map(|action| match action {
            primary::Action::Send(ToSecondary::Operation {
                number, operation, ..
            }) => Some((number.0, operation.clone())),
            _ => None,
        });
        sent.collect()
    }

    pub(super) fn applies(&self) -> Vec<u64> {
        let applies = self.actions.iter().filter_map(|action| match action {
            primary::Action::Apply { slot, .. } => Some(slot.0),
            _ => None,
        });
        applies.collect()
    }

    pub(super) fn lost(&self) -> Option<&'static str> {
        match self.primary.phase() {
            Phase::Deciding(loss) | Phase::Parting(loss) | Phase::Alone(loss) => Some(loss.kind.as_str()),
            _ => None,
        }
    }
}

#[test]
fn an_operation_is_shipped_then_applied_here_then_answered() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.submit(1, create(2));
    assert_eq!((here.sent().len(), here.applies().len()), (1, 0));
    here.answer(1, applied(0));
    assert_eq!((here.applies(), here.replied(1)), (vec![1], None));
    here.done(1, applied(0));
    assert_eq!(here.replied(1), Some(Ok(Applied::default())));
}

#[test]
fn a_sync_runs_on_both_nodes_at_once_and_is_answered_after_both() {
    for secondary_first in [true, false] {
        let mut here = Here::in_sync(OnPeerLoss::Ask);
        here.made(2, 1).submit(1, sync(2));
        assert_eq!((here.sent().len(), here.applies()), (1, vec![2]));
        if secondary_first {
            here.answer(2, applied(0));
            assert_eq!(here.replied(1), None);
            here.done(2, applied(0));
        } else {
            here.done(2, applied(0));
            assert_eq!(here.replied(1), None);
            here.answer(2, applied(0));
        }
        assert_eq!(here.replied(1), Some(Ok(Applied::default())));
    }
}

#[test]
fn a_failed_sync_is_a_failing_disk_in_sync_and_an_error_alone() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.made(2, 1).submit(1, sync(2));
    here.answer(2, applied(0)).done(2, Outcome::Failed(ENOSPC));
    assert!(matches!(here.primary.phase(), Phase::Failed { .. }) && here.replied(1).is_none());

    let mut here = Here::new(OnPeerLoss::Ask);
    here.event(primary::Event::GoAlone).event(primary::Event::Noted {
        generation: GENERATION,
    });
    here.submit(1, sync(1)).done(1, Outcome::Failed(EIO));
    assert_eq!(here.replied(1), Some(Err(EIO)));
    assert!(matches!(here.actions[0], primary::Action::DiskFailing { .. }));
    assert!(matches!(here.actions[1], primary::Action::NoteVerify { .. }));
    assert!(matches!(here.primary.phase(), Phase::Alone(_)));
}

#[test]
fn a_file_without_a_name_is_used_here_only_and_copied_from_by_reading() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.made(2, 1)
        .made(3, 2)
        .submit(1, unlink(2))
        .submit(2, write(2));
    assert_eq!(here.sent().len(), 0, "parked while the name goes");
    here.answer(3, applied(0)).done(3, applied(0));
    assert_eq!((here.sent().len(), here.applies()), (0, vec![4]));
    here.done(4, applied(4));
    assert!(here.replied(2).is_some_and(|result| result.is_ok()));
    here.submit(
        3,
        Operation::CopyRange {
            source: InodeId(2),
            source_offset: 0,
            target: InodeId(3),
            target_offset: 0,
            length: 4,
            time: None,
            set_mode: None,
        },
    );
    assert_eq!(
        here.replied(3),
        Some(Err(Errno(rustix::io::Errno::XDEV.raw_os_error())))
    );
}

#[test]
fn an_operation_on_an_inode_that_nobody_looked_up_ends_the_session_and_is_not_lost() {
    let mut here = Here::in_sync(OnPeerLoss::Alone);
    here.submit(1, write(77));
    assert_eq!(here.lost(), Some("unnamed"));
    here.event(primary::Event::Noted {
        generation: GENERATION,
    });
    assert_eq!(here.applies(), [1]);
}

#[test]
fn a_refusal_is_believed_when_this_node_refuses_too() {
    let refuse = |errno, check| {
        let mut here = Here::in_sync(OnPeerLoss::Ask);
        here.submit(1, create(2)).answer(1, Outcome::Refused(errno));
        assert!(
            matches!(here.actions.last(), Some(primary::Action::CheckRefusal { .. })),
            "{:?}",
            here.actions
        );
        here.event(primary::Event::Checked {
            slot: Slot(1),
            refusal: check,
        });
        (here.replied(1), here.lost())
    };
    assert_eq!(refuse(EEXIST, Some(EEXIST)), (Some(Err(EEXIST)), None));
    assert_eq!(refuse(EEXIST, None), (None, Some("differs")));
    assert_eq!(refuse(EEXIST, Some(ENOSPC)), (None, Some("differs")));
    assert_eq!(refuse(ENOSPC, Some(ENOSPC)), (Some(Err(ENOSPC)), None));
    assert_eq!(refuse(ENOSPC, None), (None, Some("no-space")));
    assert_eq!(refuse(Errno(27), None), (None, Some("failed")));
}

#[test]
fn failures_of_the_secondary_lose_it_and_the_operation_is_applied_alone() {
    let outcomes = [
        (Outcome::Failed(EIO), "failed"),
        (Outcome::Failed(ENOSPC), "no-space"),
        (Outcome::Refused(EIO), "failed"),
        (applied(3), "failed"),
    ];
    for (outcome, kind) in outcomes {
        let mut here = Here::in_sync(OnPeerLoss::Alone);
        here.made(2, 1).submit(1, write(2)).answer(2, outcome);
        assert_eq!(here.lost(), Some(kind));
        assert!(here.applies().is_empty(), "before the note is on disk");
        here.event(primary::Event::Noted {
            generation: GENERATION,
        });
        assert_eq!(here.applies(), [2]);
        here.done(2, applied(4));
        assert!(here.replied(1).is_some_and(|result| result.is_ok()));
    }
}

#[test]
fn an_unbound_inode_is_bound_again_once() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.made(2, 1).submit(1, write(2));
    here.answer(2, Outcome::NotBound(InodeId(2)));
    assert_eq!(here.sent().len(), 1, "{:?}", here.actions);
    here.answer(3, Outcome::NotBound(InodeId(2)));
    assert_eq!(here.lost(), Some("differs"));
}

/// As the answer to a `Bind` or a `Create` of an inode.
fn introduced(inode: u64) -> Outcome {
    Outcome::Applied(Applied {
        length: 0,
        handle: Some(peer_handle(inode)),
    })
}

fn peer_handle(inode: u64) -> FileHandle {
    FileHandle {
        kind: 2,
        bytes: inode.to_be_bytes().as_slice().into(),
    }
}

#[test]
fn the_secondarys_handles_are_kept_from_its_answers_until_the_inode_goes() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    let known = |here: &Here, inode| here.primary.peer_handle(InodeId(inode)).cloned();
    let ticket = here.primary.begin_lookup(InodeId(1));
    here.primary
        .looked_up(ticket, InodeId(3), &name("bound"), Seen::default())
        .unwrap();
    // A create and a bind, answered in the other order; the write's own answer carries none.
    here.submit(1, create(2)).submit(2, write(3));
    assert_eq!((known(&here, 2), known(&here, 3)), (None, None));
    here.answer(2, introduced(3)).answer(1, introduced(2));
    assert_eq!(
        (known(&here, 2), known(&here, 3)),
        (Some(peer_handle(2)), Some(peer_handle(3)))
    );
    here.answer(3, applied(4)).done(1, applied(0)).done(2, applied(4));
    assert!(here.replied(2).is_some_and(|result| result.is_ok()));
    assert_eq!(known(&here, 3), Some(peer_handle(3)));
    // It identifies the inode on the secondary's disk also once that is lost.
    here.event(primary::Event::Received(ToPrimary::Leaving {
        reason: "x".into(),
    }))
    .event(primary::Event::GoAlone)
    .event(primary::Event::Noted {
        generation: GENERATION,
    });
    assert_eq!(known(&here, 2), Some(peer_handle(2)));
    here.submit(3, unlink(2)).done(3, applied(0));
    assert_eq!(known(&here, 2), None, "without a name");
    let mut actions = Vec::new();
    here.primary.forget(&[InodeId(3)], &mut actions);
    assert_eq!(actions, [], "the secondary lacks what was written to it");
    assert_eq!(known(&here, 3), Some(peer_handle(3)));
}

#[test]
fn a_bind_that_was_turned_down_and_a_create_that_was_refused_leave_no_handle() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.submit(1, create(2)).answer(1, Outcome::Refused(EEXIST));
    assert_eq!(here.primary.peer_handle(InodeId(2)), None);
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    // Accepted there, no room here: the secondary takes it back.
    here.submit(1, create(2))
        .answer(1, introduced(2))
        .done(1, Outcome::Refused(ENOSPC));
    assert_eq!(here.primary.phase(), Phase::InSync { repairing: true });
    let undo = unlink(2);
    here.event(primary::Event::ReadBack {
        slot: Slot(1),
        operations: Some(vec![undo]),
    });
    here.answer(2, applied(0));
    assert_eq!(here.replied(1), Some(Err(ENOSPC)));
    assert_eq!(here.primary.peer_handle(InodeId(2)), None);
}

#[test]
fn what_breaks_on_this_disk_after_the_secondary_has_it_is_answered_no_more() {
    for outcome in [
        Outcome::Failed(EIO),
        Outcome::Refused(Errno(30)),
        applied(2),
        Outcome::NotBound(InodeId(2)),
    ] {
        let mut here = Here::in_sync(OnPeerLoss::Ask);
        here.made(2, 1)
            .submit(1, write(2))
            .answer(2, applied(4))
            .done(2, outcome);
        assert!(matches!(here.primary.phase(), Phase::Failed { .. }) && here.replied(1).is_none());
        here.submit(2, write(2));
        assert_eq!(here.actions, []);
    }
}

#[test]
fn a_local_stall_is_a_failing_disk() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.made(2, 1).submit(1, write(2)).answer(2, applied(4));
    for second in 0..30 {
        let pings = here.at(f64::from(second)).actions.clone();
        pong_all(&mut here, &pings, vec![]);
        assert!(matches!(here.primary.phase(), Phase::InSync { .. }), "{second}");
    }
    here.at(30.5);
    assert!(matches!(here.primary.phase(), Phase::Failed { .. }));
}

fn pong_all(here: &mut Here, actions: &[primary::Action], running: Vec<Running>) {
    for action in actions {
        if let primary::Action::Send(ToSecondary::Ping { nonce, .. }) = action {
            here.event(primary::Event::Received(ToPrimary::Pong {
                nonce: *nonce,
                prefix: Number(0),
                running: running.clone(),
                rooms: vec![],
            }));
        }
    }
}

/// Lets `seconds` pass, answering each ping with what is in the secondary's kernel since when, if there is any.
fn seconds_until_lost(here: &mut Here, number: Option<(u64, f64)>, seconds: u32) -> Option<f64> {
    for tenth in 0..seconds * 10 {
        let at = f64::from(tenth) / 10.0;
        let pings = here.at(at).actions.clone();
        if here.lost().is_some() {
            return Some(at);
        }
        if let Some((number, since)) = number {
            let running = Running {
                number: Number(number),
                in_kernel: true,
                for_ms: ((at - since).max(0.0) * 1000.0) as u32,
            };
            pong_all(here, &pings, vec![running]);
        }
    }
    None
}

#[test]
fn a_silent_secondary_is_lost_after_the_stall() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.made(2, 1).submit(1, write(2));
    let lost = seconds_until_lost(&mut here, None, 20).unwrap();
    assert!((10.0..10.3).contains(&lost), "{lost}");
}

#[test]
fn slow_is_not_hung_but_one_operation_in_the_kernel_for_the_stall_is() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.made(2, 1).submit(1, write(2));
    // It entered the kernel five seconds after it was sent: it waited for others until then.
    let lost = seconds_until_lost(&mut here, Some((2, 5.0)), 40).unwrap();
    assert!((15.0..15.3).contains(&lost), "{lost}");
}

#[test]
fn a_sync_may_take_the_local_stall_and_a_checkpoint_as_long_as_it_likes() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.submit(1, sync(1)).done(1, applied(0));
    let lost = seconds_until_lost(&mut here, Some((1, 0.0)), 60).unwrap();
    assert!((30.0..30.3).contains(&lost), "{lost}");

    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.submit(1, Operation::Checkpoint);
    assert_eq!(seconds_until_lost(&mut here, Some((1, 0.0)), 200), None);
}

#[test]
fn a_process_that_did_not_run_judges_nobody() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.made(2, 1).submit(1, write(2));
    here.now += Duration::from_secs(60);
    here.event(primary::Event::Tick);
    assert_eq!(here.lost(), None);
}

#[test]
fn an_idle_primary_pings_every_few_seconds() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    let mut pings = 0;
    for tenth in 0..600 {
        let actions = here.at(f64::from(tenth) / 10.0).actions.clone();
        pings += actions.len();
        pong_all(&mut here, &actions, vec![]);
    }
    assert!((20..=30).contains(&pings), "{pings}");
}

#[test]
fn a_lost_connection_counts_from_its_loss_and_a_late_resume_goes_on() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.made(2, 1)
        .submit(1, write(2))
        .event(primary::Event::LinkLost);
    here.submit(2, write(2));
    assert_eq!(here.sent().len(), 0);
    here.at(9.9);
    assert_eq!(here.primary.phase(), Phase::Disconnected);
    here.at(10.1);
    assert_eq!(here.lost(), Some("unreachable"));
    assert_eq!(here.primary.resumable(), Some((SESSION, Number(1))));
    here.event(primary::Event::Connected {
        session: SESSION,
        welcome: welcome(),
    });
    let numbers: Vec<u64> = here.sent().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [2, 3], "the unanswered one again, then what waited");
}

#[test]
fn the_silence_before_a_connection_is_found_dead_counts_towards_peer_stall() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.made(2, 1).submit(1, write(2)).at(5.0);
    here.event(primary::Event::LinkLost).at(9.9);
    assert_eq!(here.primary.phase(), Phase::Disconnected);
    here.at(10.1);
    assert_eq!(here.lost(), Some("unreachable"));
}

#[test]
fn a_session_that_the_secondary_has_ended_cannot_be_resumed() {
    for rejection in [
        Rejection::UnknownSession,
        Rejection::NotSecondary {
            node: "b".into(),
            state: "primary".into(),
        },
    ] {
        let mut here = Here::in_sync(OnPeerLoss::Ask);
        here.event(primary::Event::LinkLost)
            .event(primary::Event::Rejected(rejection));
        assert_eq!((here.lost(), here.primary.resumable()), (Some("left"), None));
    }
}

#[test]
fn answers_to_what_was_never_sent_lose_the_secondary() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.answer(1, applied(0));
    assert_eq!(here.lost(), Some("failed"));
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.event(primary::Event::LinkLost);
    let welcome = Welcome {
        prefix: Number(9),
        ..welcome()
    };
    here.event(primary::Event::Connected {
        session: SESSION,
        welcome,
    });
    assert_eq!(here.lost(), Some("failed"));
}

#[test]
fn a_note_that_cannot_be_written_is_a_failing_disk() {
    let mut here = Here::new(OnPeerLoss::Ask);
    here.event(primary::Event::GoAlone)
        .event(primary::Event::NoteFailed {
            reason: "full".into(),
        });
    assert!(matches!(here.primary.phase(), Phase::Failed { .. }));
}

#[test]
fn a_repair_that_takes_too_long_or_is_impossible_parts() {
    let repairing = || {
        let mut here = Here::in_sync(OnPeerLoss::Ask);
        here.made(2, 1)
            .submit(1, write(2))
            .answer(2, applied(4))
            .done(2, Outcome::Failed(ENOSPC));
        assert_eq!(here.primary.phase(), Phase::InSync { repairing: true });
        here
    };
    let mut here = repairing();
    here.event(primary::Event::ReadBack {
        slot: Slot(2),
        operations: None,
    });
    assert_eq!(here.lost(), Some("unrepaired"));
    here.event(primary::Event::GoAlone).event(primary::Event::Noted {
        generation: GENERATION,
    });
    assert_eq!(here.replied(1), Some(Err(ENOSPC)));
    let mut here = repairing();
    assert!((10.0..10.3).contains(&seconds_until_lost(&mut here, Some((9, 0.0)), 20).unwrap()));
    assert_eq!(here.lost(), Some("unrepaired"));
    let mut here = repairing();
    let attributes = Attributes {
        size: Some(0),
        ..Attributes::default()
    };
    let restored = Operation::SetAttributes {
        inode: InodeId(2),
        attributes,
    };
    here.event(primary::Event::ReadBack {
        slot: Slot(2),
        operations: Some(vec![restored]),
    });
    here.submit(2, write(2));
    assert!(here.sent().is_empty(), "held until it is repaired");
    here.answer(3, applied(0));
    assert_eq!(here.replied(1), Some(Err(ENOSPC)));
    assert_eq!(
        (here.sent().len(), here.primary.phase()),
        (1, Phase::InSync { repairing: false })
    );
}

#[test]
fn a_failed_read_is_a_failing_disk_as_long_as_the_secondary_can_take_over() {
    for mut here in phases() {
        let before = here.primary.phase();
        here.event(primary::Event::ReadFailed {
            ticket: Ticket(7),
            errno: EIO,
        });
        let in_sync = matches!(before, Phase::InSync { .. } | Phase::Disconnected);
        let unanswered = in_sync || matches!(before, Phase::Failed { .. });
        let expected = (!unanswered).then_some(Err(EIO));
        assert_eq!(here.replied(7), expected, "in {before:?}");
        let told = |action: &primary::Action| matches!(action, primary::Action::DiskFailing { .. });
        assert_eq!(here.actions.iter().any(told), in_sync, "in {before:?}");
        if in_sync {
            let reason = format!("a read: {EIO}");
            assert_eq!(here.primary.phase(), Phase::Failed { reason });
            here.submit(8, write(1));
            assert_eq!(here.replied(8), None, "from {before:?}");
        } else {
            assert_eq!(here.primary.phase(), before);
        }
    }
}

#[test]
fn a_failed_read_during_a_repair_is_a_failing_disk_and_the_repair_is_not_answered() {
    let mut here = Here::in_sync(OnPeerLoss::Ask);
    here.made(2, 1)
        .submit(1, write(2))
        .answer(2, applied(4))
        .done(2, Outcome::Failed(ENOSPC));
    here.event(primary::Event::ReadFailed {
        ticket: Ticket(7),
        errno: EIO,
    });
    assert!(matches!(here.primary.phase(), Phase::Failed { .. }));
    here.event(primary::Event::ReadBack {
        slot: Slot(2),
        operations: None,
    });
    assert_eq!((here.replied(1), here.replied(7)), (None, None));
}

/// One event of each kind, by name.
fn events() -> Vec<(&'static str, primary::Event)> {
    use primary::Event;
    vec![
        (
            "submit",
            Event::Submit {
                ticket: Ticket(50),
                operation: create(9),
            },
        ),
        (
            "unread",
            Event::ReadFailed {
                ticket: Ticket(51),
                errno: EIO,
            },
        ),
        (
            "connected",
            Event::Connected {
                session: SESSION,
                welcome: welcome(),
            },
        ),
        ("rejected", Event::Rejected(Rejection::UnknownSession)),
        (
            "leaving",
            Event::Received(ToPrimary::Leaving { reason: "x".into() }),
        ),
        ("welcome", Event::Received(ToPrimary::Welcome(welcome()))),
        ("ended", Event::Received(ToPrimary::Ended)),
        ("parted", Event::Received(ToPrimary::Parted)),
        ("lost", Event::LinkLost),
        (
            "done",
            Event::LocalDone {
                slot: Slot(99),
                outcome: applied(0),
            },
        ),
        (
            "checked",
            Event::Checked {
                slot: Slot(99),
                refusal: None,
            },
        ),
        (
            "read",
            Event::ReadBack {
                slot: Slot(99),
                operations: None,
            },
        ),
        ("tick", Event::Tick),
        ("alone", Event::GoAlone),
        (
            "noted",
            Event::Noted {
                generation: GENERATION,
            },
        ),
        ("unnoted", Event::NoteFailed { reason: "x".into() }),
        (
            "copy",
            Event::CopyBegun {
                session: SESSION,
                tracked: false,
            },
        ),
        (
            "list",
            Event::ListingBegun {
                directory: InodeId(1),
            },
        ),
        (
            "listed",
            Event::ListingEnded {
                directory: InodeId(1),
            },
        ),
        (
            "claim",
            Event::Claim {
                claim: ClaimId(9),
                scope: Scope {
                    inodes: vec![InodeId(1)],
                    ..Scope::default()
                },
            },
        ),
        (
            "release",
            Event::Release {
                claim: ClaimId(9),
                brought: Brought::default(),
            },
        ),
        ("verify", Event::VerifyBegun),
        ("verified", Event::VerifyEnded),
        (
            "mend",
            Event::Mend {
                claim: ClaimId(9),
                operations: vec![write(5)],
            },
        ),
        ("copied", Event::CopyDone),
        (
            "broken",
            Event::CopyBroken(Loss {
                kind: LossKind::Failed,
                detail: "x".into(),
            }),
        ),
        (
            "joined",
            Event::JoinNoted {
                generation: GENERATION,
            },
        ),
        ("unjoined", Event::JoinNoteFailed { reason: "x".into() }),
        ("completed", Event::Received(ToPrimary::Completed)),
        ("end", Event::End),
        ("endnoted", Event::EndNoted),
    ]
}

/// Everything is on disk on both nodes for a clean end.
fn about_to_end(on_peer_loss: OnPeerLoss) -> Here {
    let mut here = Here::in_sync(on_peer_loss);
    here.event(primary::Event::End);
    let [(number, Operation::Checkpoint)] = here.sent()[..] else {
        panic!("{:?}", here.actions);
    };
    let slot = here.applies()[0];
    here.answer(number, applied(0)).done(slot, applied(0));
    let notes = |action: &primary::Action| matches!(action, primary::Action::NoteHandedOver { .. });
    assert!(here.actions.iter().any(notes), "{:?}", here.actions);
    here
}

fn tells_of_its_end(here: &Here) -> bool {
    let end = primary::Action::Send(ToSecondary::End);
    here.actions.contains(&end)
}

#[test]
fn the_secondary_is_told_of_the_end_once_the_primary_has_noted_it() {
    let mut here = about_to_end(OnPeerLoss::Alone);
    assert!(!tells_of_its_end(&here));
    here.event(primary::Event::EndNoted);
    assert!(tells_of_its_end(&here));
    here.event(primary::Event::Received(ToPrimary::Ended));
    assert_eq!(here.primary.phase(), Phase::Ended);
    assert!(matches!(
        here.actions[..],
        [primary::Action::Ended { with_peer: true, .. }]
    ));
}

#[test]
fn a_primary_that_has_told_of_its_end_does_not_go_on_alone() {
    let mut here = about_to_end(OnPeerLoss::Alone);
    here.event(primary::Event::EndNoted)
        .event(primary::Event::LinkLost)
        .at(11.0);
    assert_eq!(here.primary.phase(), Phase::Ended);
    let ended = |action: &primary::Action| matches!(action, primary::Action::Ended { with_peer: false, .. });
    assert!(here.actions.iter().any(ended), "{:?}", here.actions);
    let parts = |action: &primary::Action| matches!(action, primary::Action::NoteAlone(_));
    assert!(!here.actions.iter().any(parts), "{:?}", here.actions);
    // Told by a person, where it asks.
    let mut here = about_to_end(OnPeerLoss::Ask);
    here.event(primary::Event::EndNoted)
        .event(primary::Event::LinkLost)
        .at(11.0);
    assert!(here.lost().is_some());
    here.event(primary::Event::GoAlone);
    assert_eq!(here.primary.phase(), Phase::Ended);
}

#[test]
fn a_primary_that_has_not_told_of_its_end_yet_goes_on_alone() {
    let mut here = about_to_end(OnPeerLoss::Alone);
    here.event(primary::Event::LinkLost).at(11.0);
    here.event(primary::Event::EndNoted);
    assert!(matches!(here.primary.phase(), Phase::Parting(_)));
    here.event(primary::Event::Noted {
        generation: GENERATION,
    });
    assert!(!tells_of_its_end(&here));
}

fn word(phase: &Phase) -> &'static str {
    match phase {
        Phase::NoSession => "none",
        Phase::InSync { .. } => "sync",
        Phase::Disconnected => "disc",
        Phase::Deciding(_) => "decide",
        Phase::Parting(_) => "part",
        Phase::Alone(_) => "alone",
        Phase::Failed { .. } => "fail",
        Phase::Copying(_) => "copy",
        Phase::Joining => "join",
        Phase::Ended => "ended",
    }
}

/// The phases in the order of the table below.
fn phases() -> Vec<Here> {
    use primary::Event;
    let lost = || {
        let mut here = Here::in_sync(OnPeerLoss::Ask);
        here.event(Event::LinkLost).at(11.0);
        here
    };
    let left = || {
        let mut here = Here::in_sync(OnPeerLoss::Ask);
        here.event(Event::Received(ToPrimary::Leaving { reason: "x".into() }));
        here
    };
    let mut disconnected = Here::in_sync(OnPeerLoss::Ask);
    disconnected.event(Event::LinkLost);
    let mut parting = lost();
    parting.event(Event::GoAlone);
    let mut alone = lost();
    alone.event(Event::GoAlone).event(Event::Noted {
        generation: GENERATION,
    });
    let mut failed = Here::new(OnPeerLoss::Ask);
    failed
        .event(Event::GoAlone)
        .event(Event::NoteFailed { reason: "x".into() });
    let mut ended = Here::new(OnPeerLoss::Ask);
    ended.event(Event::End);
    let copying = || {
        let mut here = Here::new(OnPeerLoss::Ask);
        here.event(Event::GoAlone).event(Event::Noted {
            generation: GENERATION,
        });
        here.event(Event::CopyBegun {
            session: SESSION,
            tracked: false,
        });
        here
    };
    let noting = || {
        let mut here = copying();
        here.event(Event::ListingBegun {
            directory: InodeId(1),
        });
        here.event(Event::ListingEnded {
            directory: InodeId(1),
        });
        let scope = Scope {
            inodes: vec![InodeId(1)],
            ..Scope::default()
        };
        here.event(Event::Claim {
            claim: ClaimId(1),
            scope,
        });
        let brought = Brought {
            finished: vec![InodeId(1)],
            ..Brought::default()
        };
        here.event(Event::Release {
            claim: ClaimId(1),
            brought,
        });
        here.event(Event::CopyDone);
        here
    };
    let mut telling = noting();
    telling.event(Event::JoinNoted {
        generation: GENERATION,
    });
    vec![
        Here::new(OnPeerLoss::Ask),
        Here::in_sync(OnPeerLoss::Ask),
        disconnected,
        lost(),
        left(),
        parting,
        alone,
        failed,
        ended,
        copying(),
        noting(),
        telling,
    ]
}

#[test]
fn every_state_of_a_primary_takes_every_event() {
    // Columns: no session, in sync, disconnected, lost for now, lost for good, parting, alone, failed, ended,
    // copying, the end of a copy being noted, being told.
    let table = [
        (
            "submit",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "unread",
            "none fail fail decide decide part alone fail ended copy join join",
        ),
        (
            "connected",
            "sync sync sync sync decide part alone fail ended copy join join",
        ),
        (
            "rejected",
            "none decide decide decide decide part alone fail ended copy decide decide",
        ),
        (
            "leaving",
            "none decide disc decide decide part alone fail ended alone decide decide",
        ),
        (
            "welcome",
            "none decide disc decide decide part alone fail ended alone decide decide",
        ),
        (
            "ended",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "parted",
            "none decide disc decide decide part alone fail ended alone decide decide",
        ),
        (
            "lost",
            "none disc disc decide decide part alone fail ended alone disc disc",
        ),
        (
            "done",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "checked",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "read",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "tick",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "alone",
            "part sync part part part part alone fail ended alone join join",
        ),
        (
            "noted",
            "none sync disc decide decide alone alone fail ended copy join join",
        ),
        (
            "unnoted",
            "none sync disc decide decide fail alone fail ended copy join join",
        ),
        (
            "copy",
            "none sync disc decide decide part copy fail ended copy join join",
        ),
        (
            "list",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "listed",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "claim",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "release",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "verify",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "verified",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "mend",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "copied",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "broken",
            "none sync disc decide decide part alone fail ended alone join join",
        ),
        (
            "joined",
            "none sync disc decide decide part alone fail ended copy join join",
        ),
        (
            "unjoined",
            "none sync disc decide decide part alone fail ended copy decide join",
        ),
        (
            "completed",
            "none sync disc decide decide part alone fail ended copy join sync",
        ),
        (
            "end",
            "ended sync disc decide decide part alone fail ended alone join join",
        ),
    ];
    for ((name, event), (row, expected)) in events().into_iter().zip(table) {
        assert_eq!(name, row);
        for (mut here, expected) in phases().into_iter().zip(expected.split(' ')) {
            let before = here.primary.phase();
            here.event(event.clone());
            let after = here.primary.phase();
            assert_eq!(word(&after), expected, "{name} in {before:?}");
        }
    }
}

fn is_shipped(here: &Here) -> bool {
    let ships = |action: &primary::Action| {
        matches!(
            action,
            primary::Action::Send(ToSecondary::Operation {
                operation: Operation::Create(_),
                ..
            })
        )
    };
    here.actions.iter().any(ships)
}

#[test]
fn what_a_verification_claims_waits_until_it_is_released_or_the_verification_is_over() {
    use primary::{Action, Event};
    let claim = ClaimId(1);
    let claimed = || {
        let mut here = Here::in_sync(OnPeerLoss::Ask);
        here.event(Event::VerifyBegun);
        let scope = Scope {
            names: Some((InodeId(1), vec![name("f5")])),
            ..Scope::default()
        };
        here.event(Event::Claim { claim, scope });
        assert!(here.actions.contains(&Action::Granted { claim, gone: vec![] }));
        here.event(Event::Submit {
            ticket: Ticket(1),
            operation: create(5),
        });
        assert!(!is_shipped(&here), "it is held back");
        here.event(Event::Submit {
            ticket: Ticket(2),
            operation: write(1),
        });
        here
    };
    let brought = Brought::default();
    for end in [Event::Release { claim, brought }, Event::VerifyEnded] {
        let mut here = claimed();
        here.event(end);
        assert!(is_shipped(&here), "{:?}", here.actions);
    }
    let mut lost = claimed();
    lost.event(Event::LinkLost);
    let over = |action: &Action| matches!(action, Action::VerifyOver { .. });
    assert!(lost.actions.iter().any(over) && !lost.primary.is_verifying());
    lost.event(Event::Connected {
        session: SESSION,
        welcome: welcome(),
    });
    assert!(is_shipped(&lost), "{:?}", lost.actions);
}

#[test]
fn a_verification_does_not_begin_while_the_pair_is_not_in_sync() {
    for mut here in phases() {
        let is_in_sync = matches!(here.primary.phase(), Phase::InSync { .. });
        here.event(primary::Event::VerifyBegun);
        assert_eq!(
            here.primary.is_verifying(),
            is_in_sync,
            "{:?}",
            here.primary.phase()
        );
    }
}
