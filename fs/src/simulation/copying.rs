//! A copy: the real source on a thread of its own, which runs only while the simulation waits for it. Whatever it asks
//! is answered by the simulation, at once where the driver would take a lock, later where it waits for something.

use super::disk::Tree;
use super::machine::Process;
use super::primary::PrimarySide;
use super::store::{ENOENT, ESTALE, Reading, by_handle, execute, handle};
use super::world::World;
use crate::backing::{Above, Excluding, Found, Segment, Stat};
use crate::operation::{Errno, FileHandle, InodeId, Name};
use crate::resync::lane::{Carrier, CopyError, Lane};
use crate::resync::pace::Pace;
use crate::resync::progress::{Orders, Progress};
use crate::resync::source::{Files, Known, Session, Source};
use crate::session::claims::{ClaimId, Scope};
use crate::session::coverage::{Brought, Rest};
use crate::session::loss::{Loss, LossKind};
use crate::session::primary::{Event, Phase};
use crate::session::secondary;
use crate::wire::bulk::{AllAttributes, ToSource, ToTarget};
use crate::wire::message::SessionId;
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// A copy that goes on.
pub(super) struct Attempt {
    session: SessionId,
    asks: Receiver<Ask>,
    /// What it waits for.
    parked: Option<Ask>,
    thread: Option<JoinHandle<()>>,
}

type Quick = Box<dyn FnOnce(Option<(&mut PrimarySide, &Tree)>) + Send>;
type To<T> = SyncSender<Result<T, CopyError>>;

/// What the source asks.
enum Ask {
    /// What takes a lock only.
    Quick(Quick),
    /// An event, and what comes of it.
    Event(Event, SyncSender<()>),
    Claim(ClaimId, Scope, To<(ClaimId, Vec<InodeId>)>),
    /// Requests that are left, and answers that have come.
    Exchange(Vec<ToTarget>, Vec<ToSource>, To<Vec<ToSource>>),
    Identified(Vec<(InodeId, FileHandle)>, To<()>),
    MarkNames(
        Option<(InodeId, Vec<Name>)>,
        Option<crate::dirty::MarkSeq>,
        To<()>,
    ),
    Done(SyncSender<bool>),
    Finished(Result<(), CopyError>),
}

/// The source's side.
struct Asking {
    asks: SyncSender<Ask>,
    next_claim: Mutex<u64>,
}

impl Asking {
    fn quick<T: Send + 'static>(
        &self,
        without: T,
        with: impl FnOnce(&mut PrimarySide, &Tree) -> T + Send + 'static,
    ) -> T {
        let (to, told) = sync_channel(1);
        let ask: Quick = Box::new(move |side| {
            let answer = match side {
                Some((side, tree)) => with(side, tree),
                None => without,
            };
            to.send(answer).unwrap();
        });
        self.asks.send(Ask::Quick(ask)).unwrap();
        told.recv().unwrap()
    }

    fn wait<T>(&self, ask: impl FnOnce(SyncSender<T>) -> Ask) -> T {
        let (to, told) = sync_channel(1);
        self.asks.send(ask(to)).unwrap();
        told.recv().unwrap()
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(Reading<'_>) -> Result<T, Errno> + Send + 'static,
    ) -> Result<T, Errno> {
        self.quick(Err(ESTALE), |side, tree| {
            read(Reading {
                tree,
                known: &side.known,
            })
        })
    }
}

impl Session for Asking {
    fn is_over(&self) -> bool {
        self.quick(true, |side, _| !matches!(side.primary.phase(), Phase::Copying(_)))
    }

    fn begin_listing(&self, directory: InodeId) {
        self.wait(|to| Ask::Event(Event::ListingBegun { directory }, to));
    }

    fn end_listing(&self, directory: InodeId) {
        self.wait(|to| Ask::Event(Event::ListingEnded { directory }, to));
    }

    fn claim(&self, scope: Scope) -> Result<(ClaimId, Vec<InodeId>), CopyError> {
        let claim = {
            let mut next = self.next_claim.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            ClaimId(*next)
        };
        self.wait(|to| Ask::Claim(claim, scope, to))
    }

    fn release(&self, claim: ClaimId, brought: Brought) {
        self.wait(|to| Ask::Event(Event::Release { claim, brought }, to));
    }

    fn adopt(&self, _: usize, handle: &FileHandle) -> Result<InodeId, CopyError> {
        let ino = by_handle(handle).expect("a handle of this disk");
        let adopted = self.quick(None, move |side, _| {
            let inode = side.known.adopt(ino);
            side.primary.pin(inode).then_some(inode)
        });
        adopted.ok_or(CopyError::Over)
    }

    fn is_bound(&self, inode: InodeId) -> bool {
        self.quick(false, move |side, _| side.primary.is_bound(inode))
    }

    fn is_gone(&self, inode: InodeId) -> bool {
        self.quick(false, move |side, _| side.primary.is_gone(inode))
    }

    fn is_clean(&self, directory: InodeId, name: &Name) -> bool {
        let name = name.clone();
        self.quick(false, move |side, _| side.primary.is_clean(directory, &name))
    }

    fn is_fresh(&self, inode: InodeId) -> bool {
        self.quick(false, move |side, _| side.primary.is_fresh(inode))
    }

    fn place_of(&self, inode: InodeId) -> Option<(InodeId, Name)> {
        self.quick(None, move |side, _| side.primary.place_of(inode))
    }

    fn identified(&self, found: Vec<(InodeId, FileHandle)>) -> Result<(), CopyError> {
        self.wait(|to| Ask::Identified(found, to))
    }

    fn mark_names(&self, directory: InodeId, names: &[Name]) -> Result<(), CopyError> {
        self.wait(|to| Ask::MarkNames(Some((directory, names.to_vec())), None, to))
    }

    fn rest(&self) -> Rest {
        self.quick(Rest::default(), |side, _| side.primary.copy_rest())
    }

    fn done(&self) -> bool {
        self.wait(Ask::Done)
    }

    fn skipped_mount(&self, directory: InodeId, name: &Name) {
        panic!("{name} in {directory} is no mount point");
    }
}

impl Files for Asking {
    fn directories(&self) -> usize {
        1
    }

    fn path(&self, _: InodeId) -> Option<PathBuf> {
        None
    }

    fn place(&self, inode: InodeId) -> Option<(usize, FileHandle)> {
        self.quick(None, move |side, _| {
            side.known.ino(inode).map(|ino| (0, handle(ino)))
        })
    }

    fn look_up(&self, directory: InodeId, name: &Name) -> Result<Found, Errno> {
        let name = name.clone();
        self.read(move |disk| disk.look_up(directory, &name))
    }

    fn status(&self, inode: InodeId) -> Result<Stat, Errno> {
        self.read(move |disk| disk.status(inode))
    }

    fn names(&self, directory: InodeId, each: &mut dyn FnMut(Name)) -> Result<(), Errno> {
        let names = self.read(move |disk| disk.names(directory))?;
        names.into_iter().for_each(each);
        Ok(())
    }

    fn excluding(&self, _: InodeId) -> Result<Option<Excluding<'_>>, Errno> {
        Ok(None)
    }

    fn renames_reach_far(&self, _: InodeId) -> bool {
        false
    }

    fn link_target(&self, _: InodeId) -> Result<Vec<u8>, Errno> {
        Err(ENOENT)
    }

    fn directory_place(&self, directory: InodeId) -> Result<Option<Above>, Errno> {
        self.read(move |disk| disk.directory_place(directory))
    }

    fn data_segments(&self, inode: InodeId, offset: u64, length: u64) -> Result<Vec<Segment>, Errno> {
        self.read(move |disk| disk.segments(inode, offset, length))
    }

    fn settle(&self, _: InodeId, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, inode: InodeId, offset: u64, length: usize) -> Result<Bytes, Errno> {
        self.read(move |disk| disk.read(inode, offset, length as u64))
    }

    fn all_attributes(&self, inode: InodeId) -> Result<AllAttributes, Errno> {
        self.read(move |disk| disk.all_attributes(inode))
    }
}

/// The one lane of a copy.
struct Requests {
    asks: SyncSender<Ask>,
    told: Option<Receiver<Result<Vec<ToSource>, CopyError>>>,
}

impl Carrier for Requests {
    fn ask(&mut self, requests: &[ToTarget]) -> Result<(), CopyError> {
        let (to, told) = sync_channel(1);
        let ask = Ask::Exchange(requests.to_vec(), Vec::new(), to);
        self.asks.send(ask).unwrap();
        self.told = Some(told);
        Ok(())
    }

    fn answers(&mut self, _: usize) -> Result<Vec<ToSource>, CopyError> {
        self.told.take().expect("requests").recv().unwrap()
    }

    fn listed(&mut self, request: &ToTarget) -> Result<Vec<Name>, CopyError> {
        self.ask(std::slice::from_ref(request))?;
        match self.answers(1)?.pop() {
            Some(ToSource::Listed { names, .. }) => Ok(names),
            _ => Err(CopyError::Confused),
        }
    }
}

/// For the trace.
fn served(request: &ToTarget, answer: &ToSource) -> String {
    match request {
        ToTarget::Compare { blocks } => {
            let blocks: Vec<_> = blocks
                .iter()
                .map(|block| (block.inode, block.offset, block.length))
                .collect();
            format!("serves Compare {blocks:?}: {answer:?}")
        }
        ToTarget::Data { inode, offset, data } => format!("serves Data {inode} {offset} {}", data.len()),
        other => format!("serves {other:?}: {answer:?}"),
    }
}

impl World {
    pub(super) fn start_copying(&mut self, at: usize, session: SessionId, known: Option<Known>) {
        let (to, asks) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let asking = Asking {
                asks: to.clone(),
                next_claim: Mutex::new(0),
            };
            let (progress, orders, pace) = (Progress::default(), Orders::default(), Pace::default());
            pace.hurry(true);
            let source = Source {
                session: &asking,
                store: &asking,
                progress: &progress,
                orders: &orders,
                pace: &pace,
                binding: Mutex::default(),
                placed: Default::default(),
                hunch: Default::default(),
                known,
                extent_bytes: super::primary::extent_bytes(),
            };
            let mut lanes = [Lane::over(Box::new(Requests {
                asks: to.clone(),
                told: None,
            }))];
            let result = source.run(&mut lanes);
            to.send(Ask::Finished(result)).unwrap();
        });
        let side = self.primary_side(at).expect("it copies");
        side.granted = None;
        side.attempt = Some(Attempt {
            session,
            asks,
            parked: None,
            thread: Some(thread),
        });
        self.seen.copies += 1;
        self.let_copy_run(at);
    }

    /// Lets the source run until it waits for something.
    fn let_copy_run(&mut self, at: usize) {
        loop {
            let Some(side) = self.primary_side(at) else { return };
            let Some(attempt) = &mut side.attempt else { return };
            let Ok(ask) = attempt.asks.recv() else {
                let failed = attempt.thread.take().map(JoinHandle::join);
                panic!(
                    "the source of a copy has panicked: {:?}",
                    failed.map(|result| result.is_err())
                );
            };
            match ask {
                Ask::Quick(answer) => {
                    let machine = &mut self.machines[at];
                    let Process::Primary(side) = &mut machine.process else {
                        return;
                    };
                    answer(Some((side, &machine.disk.now)));
                }
                Ask::Event(event, to) => {
                    self.primary_event(at, event);
                    to.send(()).unwrap();
                }
                Ask::Claim(claim, scope, to) => {
                    if !matches!(self.phase(at), Some(Phase::Copying(_))) {
                        to.send(Err(CopyError::Over)).unwrap();
                        continue;
                    }
                    let side = self.primary_side(at).expect("it copies");
                    side.granted = None;
                    self.primary_event(at, Event::Claim { claim, scope });
                    self.park(at, Ask::Claim(claim, Scope::default(), to));
                    return;
                }
                Ask::Finished(result) => {
                    self.copy_finished(at, result);
                    return;
                }
                parked => {
                    self.park(at, parked);
                    return;
                }
            }
        }
    }

    fn park(&mut self, at: usize, ask: Ask) {
        if let Some(attempt) = self.primary_side(at).and_then(|side| side.attempt.as_mut()) {
            attempt.parked = Some(ask);
        }
    }

    fn copy_finished(&mut self, at: usize, result: Result<(), CopyError>) {
        let side = self.primary_side(at).expect("it copied");
        if let Some(thread) = side.attempt.take().and_then(|mut attempt| attempt.thread.take()) {
            thread.join().unwrap();
        }
        match result {
            Ok(()) if matches!(side.primary.phase(), Phase::InSync { .. } | Phase::Joining) => {
                side.whole = false;
                side.overwrite = false;
                self.seen.copies_done += 1;
            }
            Ok(()) => {}
            Err(error) => {
                side.whole |= matches!(error, CopyError::NeedsWhole(_));
                match &error {
                    CopyError::Over | CopyError::Closed => {}
                    CopyError::NeedsWhole(_) => self.seen.needed_whole += 1,
                    other => self.copy_went_wrong(at, other),
                }
                self.told(at, &format!("the copy ends: {error}"));
                let detail = error.to_string();
                let kind = LossKind::Failed;
                self.primary_event(at, Event::CopyBroken(Loss { kind, detail }));
            }
        }
    }

    /// Answers what the source waits for, if that is so far.
    pub(super) fn go_on_copying(&mut self, at: usize) {
        let is_linked = self.wire.is_up();
        let Some(side) = self.primary_side(at) else { return };
        let is_over = !matches!(side.primary.phase(), Phase::Copying(_));
        let granted = side.granted.take();
        let Some(attempt) = &mut side.attempt else { return };
        let session = attempt.session;
        let Some(ask) = attempt.parked.take() else { return };
        match ask {
            Ask::Claim(claim, scope, to) => match granted {
                Some((id, gone)) if id == claim => to.send(Ok((claim, gone))).unwrap(),
                _ if is_over => to.send(Err(CopyError::Over)).unwrap(),
                _ => return self.park(at, Ask::Claim(claim, scope, to)),
            },
            Ask::Exchange(requests, answers, to) if requests.is_empty() && is_linked => {
                to.send(Ok(answers)).unwrap();
            }
            Ask::Exchange(mut requests, mut answers, to) => {
                if !is_linked {
                    to.send(Err(CopyError::Closed)).unwrap();
                } else {
                    let request = requests.remove(0);
                    match self.serve(1 - at, session, &request) {
                        Some(ToSource::Failed { errno, reason }) => {
                            to.send(Err(CopyError::Target { errno, reason })).unwrap();
                        }
                        None => to.send(Err(CopyError::Closed)).unwrap(),
                        Some(answer) => {
                            // The last answer may be lost as well.
                            answers.push(answer);
                            return self.park(at, Ask::Exchange(requests, answers, to));
                        }
                    }
                }
            }
            Ask::Identified(found, to) => {
                let generation = side.record.generation;
                if self.machines[at].set_names_moved(generation, &found) {
                    self.primary_event(at, Event::Identified(found));
                    to.send(Ok(())).unwrap();
                } else {
                    to.send(Err(CopyError::NeedsWhole(
                        "the map is of another time alone".into(),
                    )))
                    .unwrap();
                }
            }
            Ask::MarkNames(Some((directory, names)), _, to) => {
                let (seq, records) = side.primary.mark_names(directory, &names);
                let seq = (!records.is_empty()).then_some(seq);
                if seq.is_some() {
                    side.add_marks(seq.unwrap_or_default(), records);
                }
                return self.park(at, Ask::MarkNames(None, seq, to));
            }
            Ask::MarkNames(None, seq, to) => {
                if seq.is_some_and(|seq| side.marks_settled < seq) {
                    return self.park(at, Ask::MarkNames(None, seq, to));
                }
                let is_kept = side.primary.copy_plan().is_some();
                let kept = if is_kept {
                    Ok(())
                } else {
                    Err(CopyError::NeedsWhole("no map".into()))
                };
                to.send(kept).unwrap();
            }
            Ask::Done(to) => {
                self.primary_event(at, Event::CopyDone);
                let is_done = !matches!(self.phase(at), Some(Phase::Copying(_)));
                to.send(is_done).unwrap();
            }
            Ask::Quick(_) | Ask::Event(..) | Ask::Finished(_) => unreachable!("answered at once"),
        }
        self.let_copy_run(at);
    }

    /// The secondary carries a request out.
    fn serve(&mut self, at: usize, session: SessionId, request: &ToTarget) -> Option<ToSource> {
        let machine = &mut self.machines[at];
        let Process::Secondary(side) = &mut machine.process else {
            return None;
        };
        if !side.secondary.begin_request(session, false) {
            return None;
        }
        let answer = execute(&mut machine.disk, &mut side.known, request);
        self.secondary_event(at, secondary::Event::RequestDone);
        self.told(at, &served(request, &answer));
        Some(answer)
    }

    /// The process of the source ends, and the copy with it.
    pub(super) fn stop_copying(&mut self, at: usize) {
        let Some(mut attempt) = self.primary_side(at).and_then(|side| side.attempt.take()) else {
            return;
        };
        let mut next = attempt.parked.take();
        loop {
            let ask = match next.take() {
                Some(ask) => ask,
                None => attempt.asks.recv().expect("a source that ends"),
            };
            match ask {
                Ask::Quick(answer) => answer(None),
                Ask::Event(_, to) => to.send(()).unwrap(),
                Ask::Claim(_, _, to) => to.send(Err(CopyError::Over)).unwrap(),
                Ask::Exchange(_, _, to) => to.send(Err(CopyError::Closed)).unwrap(),
                Ask::Identified(_, to) | Ask::MarkNames(_, _, to) => to.send(Err(CopyError::Over)).unwrap(),
                Ask::Done(to) => to.send(false).unwrap(),
                Ask::Finished(_) => break,
            }
        }
        if let Some(thread) = attempt.thread.take() {
            thread.join().unwrap();
        }
    }
}
