//! The connection between the two machines.

use super::primary::After;
use super::store::time;
use super::world::World;
use crate::dirty::MarkSeq;
use crate::operation::Timestamp;
use crate::random::Random;
use crate::record::decision::CopyState;
use crate::record::{Record, Role};
use crate::resync::source::Known;
use crate::session::primary::{Event, Phase};
use crate::session::secondary;
use crate::wire::message::{Generation, Rejection, SessionId, Start, ToPrimary, ToSecondary};
use std::collections::VecDeque;

/// What lies between: in order, and nothing after what is lost.
#[derive(Default)]
pub(super) struct Wire {
    /// Nothing gets through, and nobody can be called.
    pub(super) is_cut: bool,
    /// Which connection it is.
    id: u64,
    /// It is there.
    up: bool,
    /// It was welcomed, as far as the primary knows.
    welcomed: bool,
    to_secondary: VecDeque<ToSecondary>,
    to_primary: VecDeque<ToPrimary>,
    hello: Option<Box<Hello>>,
    /// One end has closed it.
    closing: bool,
}

struct Hello {
    session: SessionId,
    start: Start,
    copy: CopyState,
    top: (u32, Timestamp),
}

/// What a primary's call is for.
#[derive(Clone, Debug)]
pub(super) enum Call {
    No,
    Fresh(SessionId, Generation),
    Copy(SessionId, Option<Box<Known>>),
    /// Welcomed: names are being marked before the copy begins.
    Naming(SessionId, Box<Known>, MarkSeq),
    Resume(SessionId),
    /// It is told that it was left behind.
    Part,
}

impl Wire {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    pub(super) fn send_to_secondary(&mut self, message: ToSecondary) {
        if self.up && self.welcomed {
            self.to_secondary.push_back(message);
        }
    }

    pub(super) fn send_to_primary(&mut self, message: ToPrimary) {
        if self.up {
            self.to_primary.push_back(message);
        }
    }

    /// The answer to a `Hello`.
    pub(super) fn answer(&mut self, message: ToPrimary) {
        if self.up {
            self.to_primary.push_back(message);
        }
    }

    /// An end closes it, once what was sent is out.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    fn open(&mut self, hello: Hello) {
        let (id, is_cut) = (self.id + 1, self.is_cut);
        *self = Wire {
            id,
            up: true,
            hello: Some(Box::new(hello)),
            is_cut,
            ..Wire::default()
        };
    }
}

impl World {
    /// The connection breaks: some of what was on its way still arrives, on either side, and nothing after it.
    pub(super) fn disconnect(&mut self) {
        if !self.wire.up {
            return;
        }
        let some = |random: &mut Random| random.below(4);
        for _ in 0..some(&mut self.random) {
            self.deliver_there();
        }
        for _ in 0..some(&mut self.random) {
            self.deliver_here();
        }
        self.disconnect_at_once();
    }

    fn disconnect_at_once(&mut self) {
        if !self.wire.up {
            return;
        }
        let (id, is_cut) = (self.wire.id, self.wire.is_cut);
        self.wire = Wire {
            id,
            is_cut,
            ..Wire::default()
        };
        if let Some(at) = self.primary_at() {
            self.primary_link_lost(at);
        }
        // A secondary may hear of it by the next call only.
        if self.random.percent(60) {
            for at in 0..2 {
                if self
                    .secondary_side(at)
                    .is_some_and(|side| side.present.take_if(|it| *it == id).is_some())
                {
                    self.secondary_event(at, secondary::Event::LinkLost);
                }
            }
        }
    }

    /// What an end has closed is closed.
    pub(super) fn close_if_asked(&mut self) {
        if self.wire.closing {
            self.wire.closing = false;
            // What was sent before goes out.
            while self.wire.up && self.random.percent(80) && (self.deliver_there() | self.deliver_here()) {}
            self.disconnect_at_once();
        }
    }

    pub(super) fn primary_link_lost(&mut self, at: usize) {
        let Some(side) = self.primary_side(at) else { return };
        let call = std::mem::replace(&mut side.call, Call::No);
        if let Some(resumable) = side.primary.resumable() {
            side.left_behind = Some(resumable);
        }
        match call {
            Call::No | Call::Resume(_) => self.primary_event(at, Event::LinkLost),
            // The driver goes on and notices once it has begun.
            Call::Naming(..) => {
                let side = self.primary_side(at).expect("it is one");
                side.call = call;
            }
            Call::Fresh(..) | Call::Copy(..) | Call::Part => {}
        }
    }

    pub(super) fn deliver_there(&mut self) -> bool {
        if !self.wire.up {
            return false;
        }
        let id = self.wire.id;
        let Some(at) = self.primary_at().map(|at| 1 - at) else {
            return false;
        };
        if let Some(hello) = self.wire.hello.take() {
            if !self.machines[at].is_on {
                return false;
            }
            let Hello {
                session,
                start,
                copy,
                top,
            } = *hello;
            self.hello(at, session, start, &copy, top);
            return true;
        }
        let Some(message) = self.wire.to_secondary.pop_front() else {
            return false;
        };
        if self
            .secondary_side(at)
            .is_some_and(|side| side.present == Some(id))
        {
            self.secondary_received(at, message);
        }
        true
    }

    pub(super) fn deliver_here(&mut self) -> bool {
        if !self.wire.up {
            return false;
        }
        let Some(at) = self.primary_at() else { return false };
        let Some(message) = self.wire.to_primary.pop_front() else {
            return false;
        };
        self.wire.welcomed |= matches!(message, ToPrimary::Welcome(_));
        let side = self.primary_side(at).expect("it is one");
        match message {
            ToPrimary::Reject(rejection) => {
                let call = std::mem::replace(&mut side.call, Call::No);
                self.wire.up = false;
                self.rejected(at, call, rejection);
            }
            ToPrimary::Welcome(welcome) => {
                let call = std::mem::replace(&mut side.call, Call::No);
                match call {
                    Call::Fresh(session, generation) => {
                        let here = self.machines[at].here();
                        let lacks = self.machines[at]
                            .record()
                            .is_some_and(|record| record.peer_lacks_data);
                        if lacks {
                            self.disconnect_at_once();
                            return true;
                        }
                        let change =
                            |record: &mut Record| record.open_session(generation, Role::Primary, here);
                        self.write_record(at, change, After::Connected(session, Box::new(welcome)));
                    }
                    Call::Copy(session, None) => self.begin_copy(at, session, None),
                    Call::Copy(session, Some(known)) => {
                        let (seq, records) = side.primary.write_names();
                        if records.is_empty() {
                            side.call = Call::Naming(session, known, MarkSeq(0));
                        } else {
                            side.add_marks(seq, records);
                            side.call = Call::Naming(session, known, seq);
                        }
                    }
                    Call::Resume(session) => {
                        side.left_behind = None;
                        self.primary_event(at, Event::Connected { session, welcome });
                    }
                    Call::Part => {
                        let generation = side.record.generation.expect("it is alone");
                        let reason = "it was lost".to_owned();
                        self.wire
                            .send_to_secondary(ToSecondary::Part { generation, reason });
                        self.primary_side(at).expect("it is one").call = Call::Part;
                    }
                    Call::No | Call::Naming(..) => panic!("welcomed without a call, {:?}", self.phase(at)),
                }
            }
            message if matches!(side.call, Call::Part) => {
                if matches!(message, ToPrimary::Parted) {
                    side.left_behind = None;
                    side.call = Call::No;
                    self.disconnect_at_once();
                }
            }
            message => self.primary_event(at, Event::Received(message)),
        }
        true
    }

    /// Goes on with a copy whose names are marked.
    pub(super) fn go_on_naming(&mut self, at: usize) {
        let Some(side) = self.primary_side(at) else { return };
        let Call::Naming(session, known, seq) = side.call.clone() else {
            return;
        };
        if side.marks_settled < seq {
            return;
        }
        side.call = Call::No;
        if side.primary.copy_plan().is_none() {
            side.whole = true;
            self.disconnect_at_once();
            return;
        }
        let generation = side.record.generation;
        if !self.machines[at].set_names_moved(generation, &[]) {
            self.primary_side(at).expect("it is one").whole = true;
            self.disconnect_at_once();
            return;
        }
        self.begin_copy(at, session, Some(known));
    }

    fn begin_copy(&mut self, at: usize, session: SessionId, known: Option<Box<Known>>) {
        let is_up = self.wire.up;
        self.told(
            at,
            &format!("a copy begins, tracked: {}; {known:?}", known.is_some()),
        );
        let tracked = known.is_some();
        self.primary_event(at, Event::CopyBegun { session, tracked });
        let side = self.primary_side(at).expect("it is one");
        let begins = matches!(side.primary.phase(), Phase::Copying(_));
        side.left_behind = None;
        if begins {
            self.start_copying(at, session, known.map(|known| *known));
        }
        if !is_up {
            self.primary_link_lost(at);
        }
    }

    fn rejected(&mut self, at: usize, call: Call, rejection: Rejection) {
        self.told(at, &format!("is refused: {rejection}"));
        let side = self.primary_side(at).expect("it is one");
        match (call, rejection) {
            (Call::Resume(_), rejection) => self.primary_event(at, Event::Rejected(rejection)),
            (Call::Fresh(..), Rejection::FullCopyNeeded(_)) => self.primary_event(at, Event::GoAlone),
            (Call::Copy(_, Some(_)), Rejection::FullCopyNeeded(_)) => side.whole = true,
            (
                Call::Fresh(..) | Call::Copy(..),
                Rejection::WouldOverwrite(why) | Rejection::SplitBrain(why),
            ) => self.would_overwrite(at, &why),
            (Call::Part, Rejection::UnknownSession | Rejection::NotSecondary { .. }) => {
                side.left_behind = None
            }
            (Call::Fresh(..) | Call::Copy(..), Rejection::Unfit(_)) => {}
            (_, Rejection::StillRunning | Rejection::NotSecondary { .. } | Rejection::UnknownSession) => {}
            (call, rejection) => panic!("{call:?} is refused: {rejection}"),
        }
    }

    /// The primary calls, if it has a reason to.
    pub(super) fn call(&mut self, at: usize) {
        if self.wire.is_cut || self.wire.up || !self.machines[1 - at].is_on {
            return;
        }
        let session = SessionId(self.random.bytes());
        let generation = Generation(self.random.bytes());
        let Some(side) = self.primary_side(at) else { return };
        if side.is_writing || side.attempt.is_some() || !matches!(side.call, Call::No) {
            return;
        }
        let left_behind = side.left_behind;
        let (session, start, call) = match (side.primary.phase(), side.primary.resumable()) {
            (Phase::NoSession | Phase::Alone(_), _) if side.ends => return,
            (Phase::NoSession, _) => {
                let generation = side.record.generation.unwrap_or(generation);
                let start = Start::Fresh {
                    generation,
                    clean: !side.record.open,
                };
                (session, start, Call::Fresh(session, generation))
            }
            (_, Some((session, confirmed))) => (session, Start::Resume { confirmed }, Call::Resume(session)),
            (Phase::Alone(_), None) => match left_behind.filter(|_| self.random.percent(40)) {
                Some((session, confirmed)) => (session, Start::Resume { confirmed }, Call::Part),
                None => {
                    let side = self.primary_side(at).expect("it is one");
                    let record = &side.record;
                    let (true, Some(generation)) = (record.peer_lacks_data, record.generation) else {
                        return;
                    };
                    let (whole, overwrite) = (side.whole || side.overwrite, side.overwrite);
                    let plan = match whole {
                        true => None,
                        false => side.primary.copy_plan().filter(|_| record.tracked),
                    };
                    let tracked = plan.is_some();
                    let known = plan.map(|(plan, peers, names_moved)| {
                        Box::new(Known {
                            plan,
                            peers,
                            places: !names_moved,
                        })
                    });
                    let start = Start::Copy {
                        generation,
                        base: record.base,
                        overwrite,
                        tracked,
                    };
                    (session, start, Call::Copy(session, known))
                }
            },
            (_, None) => return,
        };
        let side = self.primary_side(at).expect("it is one");
        side.call = call;
        let map_is_complete = side.primary.copy_plan().is_some();
        let (record, peer_checkpoint) = (side.record.clone(), side.peer_checkpoint());
        let present = self.machines[at].present(false, map_is_complete, peer_checkpoint);
        let top = self.machines[at]
            .disk
            .now
            .get(super::disk::TOP)
            .map_or((0, time(0)), |top| (top.mode, time(top.mtime)));
        let copy = record.state(&present);
        self.wire.open(Hello {
            session,
            start,
            copy,
            top,
        });
    }
}
