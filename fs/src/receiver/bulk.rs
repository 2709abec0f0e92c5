//! The target's end of a copy or a verification: bulk connections of the primary, each request carried out on a worker.

use super::*;
use crate::resync::target;
use crate::wire::bulk::{Open, ToSource, ToTarget};
use crate::wire::message::SessionId;

impl Receiver {
    /// Serves a bulk connection whose first frame was `open`, until it ends or its session takes no such request.
    pub async fn serve_bulk(
        &self,
        mut sender: link::Sender<ToSource>,
        mut receiver: link::Receiver<ToTarget>,
        open: Open,
    ) {
        let first = match self.shared.screen_bulk(&open) {
            Ok(()) => ToSource::Opened,
            Err(reason) => ToSource::Refused { reason },
        };
        let is_open = first == ToSource::Opened;
        if let Err(reason) = answer(&mut sender, vec![first]).await {
            debug!(%reason, "a bulk connection ended before it began");
            return;
        }
        let ended = loop {
            if !is_open {
                break "it was refused".to_owned();
            }
            let request = match receiver.next().await {
                Ok(Some(request)) => request,
                Ok(None) => break "the primary closed it".to_owned(),
                Err(error) => break error.to_string(),
            };
            let shared = self.shared.clone();
            let session = open.session;
            let carried_out = self
                .shared
                .runtime
                .spawn_blocking(move || shared.carry_out_request(session, &request));
            match carried_out.await {
                Ok(Some(answers)) => {
                    if let Err(reason) = answer(&mut sender, answers).await {
                        break reason;
                    }
                }
                Ok(None) => break "its session takes no such request".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        debug!(reason = %ended, "a bulk connection ended");
        if let Err(error) = sender.finish().await {
            debug!(%error, "a bulk connection did not end in good order");
        }
    }
}

impl Shared {
    fn screen_bulk(&self, open: &Open) -> Result<(), String> {
        let mut inner = self.lock();
        let module = self.keeper.current().module;
        if open.module != module {
            return Err(format!("this is module {module}, not {}", open.module));
        }
        if inner.closed || !inner.secondary.begin_request(open.session, true) {
            return Err("that session does not go on here".into());
        }
        self.step_request_done(&mut inner);
        Ok(())
    }

    /// The answers to a request; none when `session` takes no such request, and nothing was done then.
    fn carry_out_request(self: &Arc<Self>, session: SessionId, request: &ToTarget) -> Option<Vec<ToSource>> {
        {
            let mut inner = self.lock();
            if inner.closed || !inner.secondary.begin_request(session, request.only_looks()) {
                return None;
            }
        }
        let mut answers = Vec::new();
        target::execute(&self.store, request, |answer| answers.push(answer));
        let mut inner = self.lock();
        // No operation waits for it.
        self.step(&mut inner, Event::RequestDone, &mut VecDeque::new());
        Some(answers)
    }

    /// Counts out what only asked.
    fn step_request_done(&self, inner: &mut Inner) {
        // Nothing can have been waiting for it: the lock was held all the time.
        inner
            .secondary
            .apply(Event::RequestDone, clock::now(), &mut Vec::new());
    }
}

async fn answer(sender: &mut link::Sender<ToSource>, answers: Vec<ToSource>) -> Result<(), String> {
    let encoded: Result<Vec<_>, _> = answers.iter().map(Message::encode).collect();
    let encoded = encoded.map_err(|error| error.to_string())?;
    sender.send(encoded).await.map_err(|error| error.to_string())
}
