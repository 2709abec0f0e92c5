//! What the session does, as events in words.

use super::*;

impl Replicator {
    pub(super) fn tell(&self, action: Action) {
        let (what, message) = match action {
            Action::InSync => (What::InSync, "the secondary is connected and in sync".to_owned()),
            Action::ConnectionLost => (
                What::ConnectionLost,
                "the connection to the secondary broke; writes wait for another".to_owned(),
            ),
            Action::Resumed { resent } => (
                What::ConnectionResumed { resent },
                format!("the session goes on; {resent} operations were sent again"),
            ),
            Action::PeerLost(loss) => {
                let sequel = match self.config.on_peer_loss {
                    OnPeerLoss::Ask => "writes wait for go-alone, or until it is heard again",
                    OnPeerLoss::Alone => "this node goes on alone",
                };
                let reason = loss.kind.as_str().to_owned();
                (
                    What::PeerLost { reason },
                    format!("the secondary is lost ({loss}); {sequel}"),
                )
            }
            Action::WentAlone(loss) => (
                What::WentAlone {
                    reason: loss.kind.as_str().to_owned(),
                },
                format!("goes on alone ({loss}); `connect` brings the other copy to this one's state again"),
            ),
            Action::CopyFailed(loss) => (
                What::CopyInterrupted {
                    reason: loss.kind.as_str().to_owned(),
                },
                format!("the copy to the secondary is over before its end ({loss})"),
            ),
            Action::TrackingLost { reason } => (
                What::Warning,
                format!(
                    "what the secondary lacks cannot be noted any more ({reason}); its next copy compares everything"
                ),
            ),
            Action::PeerNoted => {
                self.peer_noted.store(true, Ordering::Release);
                (
                    What::Warning,
                    "the secondary has noted durably that its copy is outdated".to_owned(),
                )
            }
            Action::Repairing => (
                What::Repairing,
                "this node had no room for what the secondary accepted; the secondary is led back".to_owned(),
            ),
            Action::Repaired => (What::Repaired, "both copies are equal again".to_owned()),
            Action::DiskFailing { reason } => {
                let message =
                    format!("this node's disk fails ({reason}); the secondary has every answered write");
                (What::DiskFailing { reason }, message)
            }
            // `run` gives only the above.
            _ => return,
        };
        self.reporter.report(what, message);
    }
}
