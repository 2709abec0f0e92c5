//! Comparing both copies completely while the application runs, and mending what differs.
//!
//! It walks this node's tree and asks the secondary for the same by its own handles, without holding anything back.
//! What is equal then is equal: every change of it is shipped to both. What seems to differ is looked at once more
//! under a claim (`session/claims.rs`), which means at the same point of the order on both sides: only what differs
//! then counts. So there is no false alarm, and an operation waits only where it meets such a second look.
//!
//! Which directory of the secondary belongs to which here is always found out under a claim of its name, from the
//! replicated directories downwards; from then on the two belong together whatever they are called.
//!
//! Threads, one for each [`Lane`], take jobs from one board.

use super::board;
use super::lane::{CopyError, Lane};
use super::pace::{Pace, Turn};
use super::progress::Orders;
use crate::backing::Store;
use crate::hash::HashMap;
use crate::operation::{FileHandle, InodeId, Name, NodeKind, Operation};
use crate::session::claims::{ClaimId, Scope};
use crate::wire::survey::{Seen, Sight, Spot};
pub use findings::Findings;
use findings::join;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod data;
mod findings;
mod mend;
mod names;

/// Inodes that moved meanwhile are asked for so many at a time.
const MOVED_AT_A_TIME: usize = 256;
/// Directories above each other at most; the kernel's own limit of a path in bytes is lower.
const DEPTH_MAX: usize = 1 << 16;

/// The rest of the primary, as a verification sees it.
pub trait Session: Sync {
    /// It is to end, or cannot go on.
    fn is_over(&self) -> bool;
    /// Waits for a claim. The inodes of it that have no name any more.
    ///
    /// # Errors
    /// [`CopyError::Over`].
    fn claim(&self, scope: Scope) -> Result<(ClaimId, Vec<InodeId>), CopyError>;
    /// Gives a claim back.
    fn release(&self, claim: ClaimId);
    /// The number of an inode, which keeps it until the verification is over. It has this name: that is claimed.
    ///
    /// # Errors
    /// [`CopyError::Over`].
    fn adopt(
        &self,
        root: usize,
        handle: &FileHandle,
        parent: InodeId,
        name: &Name,
    ) -> Result<InodeId, CopyError>;
    /// The directory and name of an inode after every operation numbered so far, if one is known.
    fn place_of(&self, inode: InodeId) -> Option<(InodeId, Name)>;
    /// Inodes that got another name since it began, each told once; at most `most`.
    fn moved(&self, most: usize) -> Vec<InodeId>;
    /// Has the secondary alone apply these operations, in its place of the order. Why that failed, if it did.
    ///
    /// # Errors
    /// [`CopyError::Over`].
    fn mend(&self, claim: ClaimId, operations: Vec<Operation>) -> Result<Result<(), String>, CopyError>;
    /// A name that something is mounted on, which is left out.
    fn skipped_mount(&self, path: &str);
}

/// One verification.
pub struct Verify<'a> {
    session: &'a dyn Session,
    store: &'a Store,
    findings: &'a Findings,
    orders: &'a Orders,
    pace: &'a Pace,
    repair: bool,
    /// The replicated directories as people call them.
    tops: Vec<PathBuf>,
    known: Mutex<Known>,
    /// Held while a name of a file with several is repaired.
    linking: Mutex<()>,
}

/// What is remembered of the walk: each directory, and each file with several names.
#[derive(Default)]
struct Known {
    directories: HashMap<InodeId, Arc<Directory>>,
    links: HashMap<(u32, FileHandle), Linked>,
    /// What each of them there is here.
    links_there: HashMap<(u32, FileHandle), FileHandle>,
    /// When it repairs: what has another number of names, to be looked at once all names are the same.
    links_later: Vec<(Arc<Directory>, Name, findings::Mismatch)>,
}

/// A file with several names.
struct Linked {
    /// What it is there.
    there: FileHandle,
    /// The name by which it was found first.
    directory: Arc<Directory>,
    name: Name,
}

/// A directory, here and there.
#[derive(Debug)]
struct Directory {
    inode: InodeId,
    there: Spot,
    place: Place,
}

/// Where a directory was when it was found, for a person.
#[derive(Debug)]
enum Place {
    Top(PathBuf),
    Below(Arc<Directory>, Name),
}

/// A name, and what it is on both sides.
#[derive(Debug)]
struct Certain {
    name: Name,
    /// The number, of a directory.
    inode: Option<InodeId>,
    here: Seen,
    there: Seen,
    /// Not a further name of what is compared by another one.
    is_first: bool,
    /// It was made there just now.
    made: bool,
}

enum Job {
    /// Compare a directory's names.
    Directory(Arc<Directory>),
    /// Compare these of them again.
    Names(Arc<Directory>, Vec<Name>),
    /// Small files.
    Files(Arc<Directory>, Vec<data::File>),
    /// Part of a large file.
    Piece {
        file: Arc<data::Large>,
        offset: u64,
        length: u64,
    },
}

type Board = board::Board<Job, ()>;

/// A claim, given back when it is dropped.
struct Held<'a> {
    session: &'a dyn Session,
    claim: ClaimId,
    /// What of it has no name any more.
    gone: Vec<InodeId>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.session.release(self.claim);
    }
}

impl<'a> Verify<'a> {
    /// Nothing is compared yet. What was ordered about copies, and their pace, holds for it as well. `tops`: the
    /// replicated directories as people call them, one for each.
    pub fn new(
        session: &'a dyn Session,
        store: &'a Store,
        findings: &'a Findings,
        orders: &'a Orders,
        pace: &'a Pace,
        repair: bool,
        tops: Vec<PathBuf>,
    ) -> Self {
        Verify {
            session,
            store,
            findings,
            orders,
            pace,
            repair,
            tops,
            known: Mutex::default(),
            linking: Mutex::default(),
        }
    }

    /// Compares everything.
    ///
    /// # Errors
    /// [`CopyError`]; what was found until then is in the findings.
    pub fn run(&self, lanes: &mut [Lane]) -> Result<(), CopyError> {
        let board = Board::default();
        for (index, top) in self.tops.iter().enumerate() {
            let inode = InodeId::root(index);
            let top = top.clone();
            let directory = Arc::new(Directory {
                inode,
                there: Spot {
                    root: index as u32,
                    handle: None,
                },
                place: Place::Top(top),
            });
            self.known().directories.insert(inode, directory.clone());
            board.lock().queue.push_back(Job::Directory(directory));
        }
        loop {
            board.work_off(lanes, |lane, job| self.work(&board, lane, job))?;
            let Some(lane) = lanes.first_mut() else {
                return Ok(());
            };
            let moved = self.session.moved(MOVED_AT_A_TIME);
            if moved.is_empty() {
                self.settle_links(lane)?;
                return Ok(());
            }
            for inode in moved {
                if let Some((parent, name)) = self.session.place_of(inode)
                    && let Some(directory) = self.directory_of(&board, lane, parent)?
                {
                    board.add(Job::Names(directory, vec![name]));
                }
            }
        }
    }

    fn work(&self, board: &Board, lane: &mut Lane, job: Job) -> Result<(), CopyError> {
        if self.session.is_over() {
            return Err(CopyError::Over);
        }
        match job {
            Job::Directory(directory) => self.directory(board, lane, &directory),
            Job::Names(directory, names) => self.names(board, lane, &directory, &names),
            Job::Files(directory, files) => self.files(board, lane, &directory, files),
            Job::Piece { file, offset, length } => self.piece(board, lane, &file, offset, length),
        }
    }

    /// Both sides of a directory by its number; none when it cannot be told where it is.
    fn directory_of(
        &self,
        board: &Board,
        lane: &mut Lane,
        inode: InodeId,
    ) -> Result<Option<Arc<Directory>>, CopyError> {
        let known = |inode: InodeId| self.known().directories.get(&inode).cloned();
        let (mut below, mut next) = (Vec::new(), inode);
        let mut directory = loop {
            if let Some(directory) = known(next) {
                break directory;
            }
            let Some((parent, name)) = self.session.place_of(next).filter(|_| below.len() < DEPTH_MAX) else {
                return Ok(None);
            };
            below.push((next, name));
            next = parent;
        };
        while let Some((inode, name)) = below.pop() {
            self.names(board, lane, &directory, &[name])?;
            match known(inode) {
                Some(found) => directory = found,
                None => return Ok(None),
            }
        }
        Ok(Some(directory))
    }

    /// Waits until so many bytes more may be compared, or somebody has failed. They are under way until what this
    /// gives is dropped.
    fn wait(&self, board: &Board, bytes: u64) -> Turn<'_> {
        board.turn(self.orders, self.pace, bytes, || self.session.is_over())
    }

    fn hold(&self, scope: Scope) -> Result<Held<'a>, CopyError> {
        let (claim, gone) = self.session.claim(scope)?;
        self.findings.held.fetch_add(1, Ordering::Relaxed);
        Ok(Held {
            session: self.session,
            claim,
            gone,
        })
    }

    fn hold_names(&self, directory: &Directory, names: &[Name]) -> Result<Held<'a>, CopyError> {
        self.hold(Scope {
            names: Some((directory.inode, names.to_vec())),
            ..Scope::default()
        })
    }

    fn hold_inodes(&self, inodes: Vec<InodeId>) -> Result<Held<'a>, CopyError> {
        self.hold(Scope {
            inodes,
            ..Scope::default()
        })
    }

    fn adopt(&self, directory: &Directory, name: &Name, here: &Seen) -> Result<InodeId, CopyError> {
        let root = directory.there.root as usize;
        self.session.adopt(root, &here.handle, directory.inode, name)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Entries are added whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory {
    fn path(&self) -> String {
        let (mut names, mut next) = (Vec::new(), self);
        let mut path = loop {
            match &next.place {
                Place::Top(path) => break path.display().to_string(),
                Place::Below(above, name) => {
                    names.push(name);
                    next = above;
                }
            }
        };
        for name in names.into_iter().rev() {
            path = join(&path, name);
        }
        path
    }

    fn path_of(&self, name: &Name) -> String {
        join(&self.path(), name)
    }

    /// A node of the same replicated directory.
    fn spot(&self, handle: &FileHandle) -> Spot {
        Spot {
            root: self.there.root,
            handle: Some(handle.clone()),
        }
    }
}

impl Certain {
    fn is_directory(&self) -> bool {
        self.here.facts.kind == NodeKind::Directory
    }
}

/// True when the node is gone there.
fn is_gone_there(error: &CopyError) -> bool {
    matches!(error, CopyError::Target { errno, .. } if super::source::is_gone(*errno))
}

fn node(sight: &Sight) -> Option<&Seen> {
    match sight {
        Sight::Node(seen) => Some(seen),
        Sight::Vacant | Sight::Mount => None,
    }
}
