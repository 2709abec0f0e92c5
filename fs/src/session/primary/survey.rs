//! A rename of a directory below which the patterns of `exclude` could match something else afterwards: looked through
//! by the driver before it is numbered.
//!
//! ```text
//!   No ---> Waiting ------------------> Looking ---------------------> Moving ---> No
//!           no name operation is        nothing changes sides:         it is applied, or
//!           under way any more          numbered; else EXDEV           refused
//! ```
//! No other name operation is numbered from the first step to the last, so what was seen is what is renamed; and a
//! rename that is refused has decided the side of no name.

use super::{Action, Primary};
use crate::exclude::{Reach, Walk};
use crate::operation::{Errno, InodeId, Operation, RenameMode};
use crate::session::border::{Crossing, Side};
use crate::session::pending::{Slot, Submitted};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) enum Survey {
    #[default]
    No,
    Waiting(Submitted),
    Looking(Submitted),
    Moving(Slot),
}

impl Survey {
    /// It holds an operation that was not replied to and has no slot.
    pub(super) fn holds_one(&self) -> bool {
        matches!(self, Survey::Waiting(_) | Survey::Looking(_))
    }
}

impl Primary {
    /// The directories whose entries this may bring to the other side.
    pub(super) fn walks_of(&self, operation: &Operation) -> Vec<Walk> {
        let Operation::Rename(rename) = operation else {
            return Vec::new();
        };
        let names = &self.names;
        if !names.excludes_anything() || names.crossing(rename) != Crossing::Stays(Side::Replicated) {
            return Vec::new();
        }
        let place = |directory: InodeId, name: &crate::operation::Name| {
            let (root, path) = names.path_of(directory)?;
            Some((root, crate::exclude::below(&path, name.as_bytes())))
        };
        let source = place(rename.source_parent, &rename.source_name);
        let target = place(rename.target_parent, &rename.target_name);
        let (Some((root, source)), Some((_, target))) = (source, target) else {
            return Vec::new();
        };
        let Some(excluded) = names.exclusions_of(root) else {
            return Vec::new();
        };
        let walk = |directory: InodeId, from: &PathBuf, to: &PathBuf| {
            let reach = excluded.reach(from, to);
            let is_wanted = names.is_directory(directory) && reach != Reach::Levels(0);
            is_wanted.then(|| Walk {
                directory,
                root,
                from: from.clone(),
                to: to.clone(),
                reach,
            })
        };
        let back = rename
            .replaced
            .filter(|_| rename.mode == RenameMode::Exchange)
            .and_then(|other| walk(other.inode, &target, &source));
        walk(rename.moved, &source, &target)
            .into_iter()
            .chain(back)
            .collect()
    }

    /// True while a directory is looked through, or renamed after that: no name operation is numbered.
    pub(super) fn survey_blocks(&self, operation: &Operation) -> bool {
        operation.is_name_operation()
            && match &self.survey {
                Survey::No => false,
                Survey::Waiting(_) | Survey::Looking(_) => true,
                Survey::Moving(slot) => {
                    self.pending.contains_key(slot) || self.settling.iter().any(|one| one.slot == *slot)
                }
            }
    }

    /// While a copy goes on the target may have the directory elsewhere yet, with excluded names of its own in it, which
    /// nobody looks through: whoever renames copies.
    pub(super) fn begin_survey(&mut self, submitted: Submitted, actions: &mut Vec<Action>) {
        if self.coverage.is_some() {
            self.refuse(&submitted, actions);
        } else {
            self.survey = Survey::Waiting(submitted);
        }
    }

    fn refuse(&self, submitted: &Submitted, actions: &mut Vec<Action>) {
        let errno = Errno(rustix::io::Errno::XDEV.raw_os_error());
        self.reply(submitted.ticket, Err(errno), actions);
    }

    /// The rename has got its slot, now or once more.
    pub(super) fn moves(&mut self, slot: Slot) {
        self.survey = Survey::Moving(slot);
    }

    /// Asks the driver to look once no name operation is under way.
    pub(super) fn go_on_survey(&mut self, actions: &mut Vec<Action>) {
        if !matches!(self.survey, Survey::Waiting(_)) || !self.names.is_settled() {
            return;
        }
        if let Survey::Waiting(submitted) = std::mem::take(&mut self.survey) {
            let walks = self.walks_of(&submitted.operation);
            self.survey = Survey::Looking(submitted);
            actions.push(Action::Survey { walks });
        }
    }

    /// The driver has looked. `stays`: nothing below would change sides.
    pub(super) fn surveyed(&mut self, stays: bool, now: Duration, actions: &mut Vec<Action>) {
        if !matches!(self.survey, Survey::Looking(_)) {
            return;
        }
        let Survey::Looking(submitted) = std::mem::take(&mut self.survey) else {
            return;
        };
        if !stays || self.coverage.is_some() {
            self.refuse(&submitted, actions);
        } else if !self.is_going_on() {
            self.submit(submitted, now, actions);
        } else if self.must_settle(&submitted.operation)
            || self.must_be_marked_first(&submitted.operation, actions)
        {
            // It is looked through again when it is taken out.
            self.parked.push(submitted);
        } else {
            self.number(submitted, now, actions);
        }
    }
}
