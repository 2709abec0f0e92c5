//! What the module shows of itself.

use super::{Module, Role, Shown};
use crate::control::event::What;
use crate::control::status::{
    Access, Directory, Latencies, Role as ShownRole, SplitBrain, State, Status, SubState,
};
use crate::receiver::Receiver;
use crate::replicator::Replicator;
use crate::session::primary::Phase;
use crate::session::secondary;
use std::path::PathBuf;
use std::sync::PoisonError;

impl Module {
    /// Where things stand.
    pub fn status(&self) -> Status {
        let record = self.keeper.current();
        let mut status = Status {
            module: self.config.module.clone(),
            node: self.config.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            role: ShownRole::Stopped,
            state: State::Stop,
            sub_state: SubState::NotReady,
            standing: record.standing,
            in_sync: false,
            repairing: false,
            connected: false,
            reason: record.note.clone(),
            generation: record.generation.map(|generation| generation.to_string()),
            last_sequence: None,
            acknowledged_sequence: None,
            queue_depth: None,
            copy: None,
            last_copy: None,
            verification: None,
            tracking: None,
            split_brain: None,
            latency: None,
            directories: Vec::new(),
        };
        let access = match self.role() {
            Role::Stopped { unlocked } => {
                if unlocked {
                    Access::Open
                } else {
                    Access::Covered
                }
            }
            Role::Secondary(receiver) => {
                show_secondary(&mut status, &receiver);
                Access::Covered
            }
            Role::Primary(replicator) => {
                show_primary(&mut status, &replicator);
                Access::Mounted
            }
        };
        let shown = self.shown().clone();
        if let Some(Shown { dir, .. }) = shown.iter().find(|shown| shown.gone) {
            status.sub_state = SubState::NotReady;
            status.reason = Some(format!("the mount over {} was taken away", dir.display()));
        }
        let is_mounted = |dir: &PathBuf| shown.iter().any(|shown| shown.dir == *dir && !shown.gone);
        status.directories = self
            .config
            .replicate
            .iter()
            .map(|replicate| Directory {
                dir: replicate.dir.clone(),
                sync: replicate.sync,
                durability: replicate.durability,
                access: match access {
                    Access::Mounted if !is_mounted(&replicate.dir) => Access::Covered,
                    access => access,
                },
            })
            .collect();
        status
    }

    /// Reports state and sub-state when they have changed.
    pub(super) fn announce(&self) {
        let status = self.status();
        let shown = (status.state, status.sub_state);
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        if announced.replace(shown) == Some(shown) {
            return;
        }
        let reason = status
            .reason
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        self.reporter.report(
            What::StateChanged {
                state: shown.0,
                sub_state: shown.1,
            },
            format!("{} is {:?} {:?}{reason}", self.config.module, shown.0, shown.1),
        );
    }
}

fn show_secondary(status: &mut Status, receiver: &Receiver) {
    let view = receiver.view();
    status.role = ShownRole::Secondary;
    status.last_sequence = view.last_received.map(|number| number.0);
    status.queue_depth = Some(view.queue_depth as u64);
    let (state, sub_state, connected, reason) = match view.phase {
        secondary::Phase::Serving {
            linked,
            copying: true,
        } => (
            State::Second,
            SubState::Transient,
            linked,
            Some("it is being brought to the primary's state; until then it is mixed"),
        ),
        secondary::Phase::Serving {
            linked: true,
            copying: false,
        } => (State::Second, SubState::Ready, true, None),
        secondary::Phase::Serving {
            linked: false,
            copying: false,
        } => (
            State::Second,
            SubState::Transient,
            false,
            Some("the connection to the primary is broken; it may have gone on alone"),
        ),
        secondary::Phase::Opening => (State::Second, SubState::Transient, true, None),
        secondary::Phase::Closing => (State::Second, SubState::Transient, true, None),
        secondary::Phase::Draining => (
            State::Wait,
            SubState::Transient,
            false,
            Some("the last operations of a session end"),
        ),
        secondary::Phase::Idle | secondary::Phase::Ended => (
            State::Wait,
            SubState::NotReady,
            false,
            Some("no primary has connected: use connect on the primary"),
        ),
    };
    status.state = state;
    status.sub_state = sub_state;
    status.connected = connected;
    if let (State::Wait, Some(split)) = (state, receiver.split()) {
        status.reason = Some(split.to_string());
        status.split_brain = Some(SplitBrain {
            primary: split.primary,
            secondary: split.secondary,
            resolution: split.resolution,
        });
    }
    // Cut off, it cannot know whether the primary has gone on alone.
    status.in_sync = connected && state == State::Second && sub_state == SubState::Ready;
    if status.reason.is_none() {
        status.reason = reason.map(str::to_owned);
    }
    let none = crate::latency::Ring::default().summary();
    status.latency = Some(Latencies {
        local: receiver.local_latency().summary(),
        wire: none.clone(),
        peer: none,
    });
}

fn show_primary(status: &mut Status, replicator: &Replicator) {
    let view = replicator.view();
    status.role = ShownRole::Primary;
    status.last_sequence = view.last_number.map(|number| number.0);
    status.acknowledged_sequence = view.acknowledged.map(|number| number.0);
    status.queue_depth = Some(view.queue_depth as u64);
    status.connected = view.connected;
    status.repairing = view.phase == Phase::InSync { repairing: true };
    status.in_sync = view.phase == Phase::InSync { repairing: false };
    let (state, sub_state, reason) = match view.phase {
        Phase::NoSession => (
            State::Prim,
            SubState::Transient,
            Some("writes wait for connect or go-alone".to_owned()),
        ),
        Phase::InSync { repairing: false } => (State::Prim, SubState::Ready, None),
        Phase::InSync { repairing: true } => (
            State::Prim,
            SubState::Transient,
            Some("the secondary is led back to this node's state".to_owned()),
        ),
        Phase::Disconnected => (
            State::Prim,
            SubState::Transient,
            Some("the connection to the secondary is broken; writes wait for another".to_owned()),
        ),
        Phase::Deciding(loss) => (
            State::Prim,
            SubState::Transient,
            Some(format!(
                "the secondary is lost ({loss}); writes wait for go-alone, or until it is heard again"
            )),
        ),
        Phase::Parting(loss) => (
            State::Prim,
            SubState::Transient,
            Some(format!("going on alone ({loss})")),
        ),
        Phase::Copying(loss) => (
            State::Alone,
            SubState::Transient,
            Some(format!(
                "the secondary is being brought to this node's state; alone until then ({loss})"
            )),
        ),
        Phase::Joining => (
            State::Prim,
            SubState::Transient,
            Some("the secondary notes that its copy is complete".to_owned()),
        ),
        Phase::Alone(loss) => (
            State::Alone,
            SubState::Ready,
            Some(format!("goes on alone ({loss})")),
        ),
        Phase::Failed { reason } => (
            State::Prim,
            SubState::NotReady,
            Some(format!("this node's disk fails ({reason})")),
        ),
        Phase::Ended => (State::Stop, SubState::Transient, None),
    };
    status.state = state;
    status.sub_state = sub_state;
    status.reason = reason.or(status.reason.take());
    status.copy = replicator.copy_status();
    status.last_copy = replicator.last_copy();
    status.verification = replicator.verification_status();
    status.tracking = replicator.tracking();
    status.latency = Some(replicator.latencies());
}
