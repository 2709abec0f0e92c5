//! The control socket: accepts root's connections, reads commands, writes answers and events.
//!
//! One task per connection; commands of one connection are carried out side by side, so that `status` is
//! answered while `connect` waits for the peer.

use super::command::{Command, FRAME_BYTES_MAX, Message, Refusal, RefusalKind, Reply, Request};
use super::event::Event;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tracing::{debug, warn};

/// Connections at one time; further ones wait in the socket's backlog.
const CONNECTIONS_MAX: usize = 64;
/// Answers and events that may wait for a slow reader; at the bound its connection is closed.
const OUTGOING_MAX: usize = 1024;
/// Commands under way at one time, of all connections; at the bound no more are read.
const UNANSWERED_MAX: u32 = 1024;

/// What carries the commands out.
pub trait Commands: Send + Sync + 'static {
    /// Carries one command out. `Subscribe` does not come here.
    fn call(self: Arc<Self>, command: Command) -> impl Future<Output = Result<Reply, Refusal>> + Send;
    /// A receiver of all events from now on.
    fn events(&self) -> broadcast::Receiver<Event>;
}

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process answers on it.
    #[error("another skfs answers on {0}; stop it first, or give this module its own control socket")]
    InUse(PathBuf),
    /// The system refused.
    #[error("cannot {attempt} the control socket {path}: {source}")]
    System {
        /// Which step.
        attempt: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    /// One permit for each command that is not answered yet.
    unanswered: Arc<Semaphore>,
    path: PathBuf,
}

impl Server {
    /// Listens on `path` with mode 0600. A socket file that a killed predecessor left is replaced.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let system = |attempt| {
            move |source| ControlError::System {
                attempt,
                path: path.to_owned(),
                source,
            }
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(system("make the directory of"))?;
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(ControlError::InUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(system("remove the stale"))?;
            }
            Err(error) => return Err(system("probe")(error)),
        }
        // Bound under the umask of this instant; the mode is set before anybody can know the name, and only
        // root can enter the directory in the default layout.
        let listener = UnixListener::bind(path).map_err(system("bind"))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(system("protect"))?;
        Ok(Server {
            listener,
            unanswered: Arc::new(Semaphore::new(UNANSWERED_MAX as usize)),
            path: path.to_owned(),
        })
    }

    /// Serves connections until the future is dropped.
    pub async fn serve<C: Commands>(&self, commands: Arc<C>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (commands, unanswered) = (commands.clone(), self.unanswered.clone());
                    tokio::spawn(async move {
                        if let Err(error) = connection(stream, commands, unanswered).await {
                            debug!(%error, "a control connection ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors or memory: it heals when others are closed; do not spin meanwhile.
                    warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
            }
        }
    }
}

impl Server {
    /// Returns once every command that was taken is answered, the bytes handed to the kernel: `stop` is answered
    /// before the process ends. Takes no new commands from then on.
    pub async fn answered(&self) {
        match self.unanswered.acquire_many(UNANSWERED_MAX).await {
            Ok(all) => all.forget(),
            Err(error) => debug!(%error, "the commands are not counted any more"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, path = %self.path.display(), "the control socket was gone already");
        }
    }
}

/// What is to be written, and what is given back once it is.
type Outgoing = mpsc::Sender<(Message, Option<OwnedSemaphorePermit>)>;

async fn connection<C: Commands>(
    stream: UnixStream,
    commands: Arc<C>,
    unanswered: Arc<Semaphore>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let (outgoing, mut queue): (Outgoing, _) = mpsc::channel(OUTGOING_MAX);
    let write = tokio::spawn(async move {
        while let Some((message, permit)) = queue.recv().await {
            let body = serde_json::to_vec(&message)?;
            let length = u32::try_from(body.len()).map_err(io::Error::other)?;
            writer.write_all(&length.to_be_bytes()).await?;
            writer.write_all(&body).await?;
            drop(permit);
        }
        Ok::<_, io::Error>(())
    });
    let mut subscribed = false;
    let ended = loop {
        let body = match read_frame(&mut reader).await {
            Ok(Some(body)) => body,
            Ok(None) => break Ok(()),
            Err(error) => {
                refuse(&outgoing, 0, error.to_string()).await;
                break Err(error);
            }
        };
        let request: Request = match serde_json::from_slice(&body) {
            Ok(request) => request,
            Err(error) => {
                let id = serde_json::from_slice::<serde_json::Value>(&body)
                    .ok()
                    .and_then(|value| value.get("id").and_then(serde_json::Value::as_u64))
                    .unwrap_or(0);
                refuse(&outgoing, id, format!("not a command of this version: {error}")).await;
                continue;
            }
        };
        if request.command == Command::Subscribe {
            if !subscribed {
                subscribed = true;
                tokio::spawn(forward(commands.events(), outgoing.clone()));
            }
            respond(&outgoing, request.id, Ok(Reply::Done), None).await;
            continue;
        }
        // Closed never; when all are taken the connection is not read further.
        let permit = unanswered.clone().acquire_owned().await.ok();
        let (commands, outgoing) = (commands.clone(), outgoing.clone());
        tokio::spawn(async move {
            let result = commands.call(request.command).await;
            respond(&outgoing, request.id, result, permit).await;
        });
    };
    drop(outgoing);
    // A subscriber's forwarder holds the queue open until its next event; nobody reads, so stop writing.
    if subscribed {
        write.abort();
    } else if let Ok(result) = write.await {
        result?;
    }
    ended
}

/// One frame, or `None` at a clean end.
async fn read_frame(reader: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes is over the limit of {FRAME_BYTES_MAX}"),
        ));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    Ok(Some(body))
}

async fn respond(
    outgoing: &Outgoing,
    id: u64,
    result: Result<Reply, Refusal>,
    permit: Option<OwnedSemaphorePermit>,
) {
    let response = Message::Response { id, result };
    if outgoing.send((response, permit)).await.is_err() {
        debug!(id, "the client left before its answer");
    }
}

async fn refuse(outgoing: &Outgoing, id: u64, message: String) {
    respond(
        outgoing,
        id,
        Err(Refusal {
            kind: RefusalKind::BadRequest,
            message,
        }),
        None,
    )
    .await;
}

async fn forward(mut events: broadcast::Receiver<Event>, outgoing: Outgoing) {
    loop {
        match events.recv().await {
            Ok(event) => {
                if outgoing.try_send((Message::Event(event), None)).is_err() {
                    // Gone, or so slow that its queue is full: it must subscribe again and ask for the status.
                    return;
                }
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                warn!(missed, "a subscriber reads too slowly")
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::client::{Client, ClientError};
    use crate::control::event::What;

    struct Echo(broadcast::Sender<Event>);

    impl Commands for Echo {
        async fn call(self: Arc<Self>, command: Command) -> Result<Reply, Refusal> {
            match command {
                Command::Connect { .. } => Err(Refusal {
                    kind: RefusalKind::PeerUnreachable,
                    message: "nobody there".into(),
                }),
                Command::GoAlone => {
                    let event = Event {
                        at_ms: 1,
                        what: What::Warning,
                        message: "alone".into(),
                    };
                    self.0.send(event).map_err(|_| Refusal {
                        kind: RefusalKind::System,
                        message: "no subscriber".into(),
                    })?;
                    Ok(Reply::Done)
                }
                _ => Ok(Reply::Done),
            }
        }
        fn events(&self) -> broadcast::Receiver<Event> {
            self.0.subscribe()
        }
    }

    fn start(path: &Path) -> tokio::runtime::Runtime {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _guard = runtime.enter();
        let server = Server::bind(path).unwrap();
        runtime.spawn(async move { server.serve(Arc::new(Echo(broadcast::channel(16).0))).await });
        drop(_guard);
        runtime
    }

    #[test]
    fn answers_commands_and_refusals_and_sends_events_to_subscribers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let _runtime = start(&path);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut client = Client::connect(&path).unwrap();
        assert_eq!(client.call(Command::Demote).unwrap(), Reply::Done);
        let refusal = client.call(Command::Connect { overwrite: false }).unwrap_err();
        assert!(
            matches!(&refusal, ClientError::Refused(r) if r.kind == RefusalKind::PeerUnreachable),
            "{refusal}"
        );
        let mut events = Client::connect(&path).unwrap().events().unwrap();
        client.call(Command::GoAlone).unwrap();
        assert_eq!(events.next().unwrap().unwrap().message, "alone");
    }

    #[test]
    fn refuses_unknown_commands_and_keeps_the_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let _runtime = start(&path);
        use std::io::{Read, Write};
        let mut raw = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let ask = |raw: &mut std::os::unix::net::UnixStream, body: &[u8]| {
            raw.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
            raw.write_all(body).unwrap();
            let mut length = [0; 4];
            raw.read_exact(&mut length).unwrap();
            let mut answer = vec![0; u32::from_be_bytes(length) as usize];
            raw.read_exact(&mut answer).unwrap();
            String::from_utf8(answer).unwrap()
        };
        let answer = ask(&mut raw, br#"{"id":7,"command":"format-everything"}"#);
        assert!(
            answer.contains("bad-request") && answer.contains("\"id\":7"),
            "{answer}"
        );
        let answer = ask(&mut raw, br#"{"id":8,"command":"demote"}"#);
        assert!(answer.contains("\"id\":8") && answer.contains("Ok"), "{answer}");
    }

    #[test]
    fn an_oversized_frame_ends_the_connection_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let _runtime = start(&path);
        use std::io::{Read, Write};
        let mut raw = std::os::unix::net::UnixStream::connect(&path).unwrap();
        raw.write_all(&u32::MAX.to_be_bytes()).unwrap();
        let mut answer = Vec::new();
        raw.read_to_end(&mut answer).unwrap();
        assert!(String::from_utf8_lossy(&answer).contains("over the limit"));
    }

    #[test]
    fn a_second_server_is_refused_and_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener that was dropped leaves its file");
        let runtime = start(&path);
        let _guard = runtime.enter();
        assert!(matches!(Server::bind(&path), Err(ControlError::InUse(_))));
    }
}
