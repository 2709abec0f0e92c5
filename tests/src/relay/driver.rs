//! The relay's thread: moves frames between the ports and the [`Fabric`], and decides nothing.

use super::fabric::{Fabric, PortNumber, Way};
use super::port::{FRAME_BYTES_MAX, PREFIX_BYTES, Port};
use crate::error::{Attempt, Error, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

/// Frames taken from one port before the others get their turn.
const FRAMES_PER_TURN: usize = 64;

/// A running relay. Dropping it ends the thread; frames still on their way are lost.
#[derive(Debug)]
pub struct Relay {
    orders: Sender<Order>,
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug)]
enum Order {
    SetWays(BTreeMap<(PortNumber, PortNumber), Way>, Sender<()>),
    End,
}

impl Relay {
    /// Opens a port on each interface of the caller's network namespace and starts forwarding.
    ///
    /// # Errors
    /// When a port cannot be opened.
    pub fn start(interfaces: &[String], seed: u64) -> Result<Self> {
        let mut ports = Vec::with_capacity(interfaces.len());
        for interface in interfaces {
            let port = Port::open(interface).attempt(|| format!("open a raw socket on {interface}"))?;
            ports.push(port);
        }
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .attempt(|| "make an eventfd for the relay".into())?;
        let bell = Arc::new(bell);
        let (orders, receiver) = channel();
        let fabric = Fabric::new(ports.len(), PREFIX_BYTES, seed);
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn({
                let bell = bell.clone();
                move || forward(&ports, fabric, &bell, &receiver)
            })
            .attempt(|| "start the relay's thread".into())?;
        Ok(Relay {
            orders,
            bell,
            thread: Some(thread),
        })
    }

    /// Replaces all faults; returns once they hold for every frame that arrives.
    ///
    /// # Errors
    /// When the relay's thread has ended, with its error.
    pub fn set_ways(&mut self, ways: BTreeMap<(PortNumber, PortNumber), Way>) -> Result<()> {
        let (done, taken) = channel();
        let sent = self.orders.send(Order::SetWays(ways, done)).is_ok();
        self.ring();
        if sent && taken.recv().is_ok() {
            return Ok(());
        }
        Err(Error::System {
            attempt: "set faults: the relay has ended".into(),
            source: self
                .end()
                .err()
                .unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()),
        })
    }

    fn ring(&self) {
        // Fails only when the counter is full, and then the thread is awake already.
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }

    fn end(&mut self) -> io::Result<()> {
        // The thread has ended already when nobody receives this.
        let _ = self.orders.send(Order::End);
        self.ring();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the relay's thread panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("the relay had ended early: {error}");
        }
    }
}

fn forward(ports: &[Port], mut fabric: Fabric, bell: &OwnedFd, orders: &Receiver<Order>) -> io::Result<()> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    loop {
        while let Ok(order) = orders.try_recv() {
            match order {
                Order::SetWays(ways, done) => {
                    fabric.set_ways(ways);
                    // Whoever asked may have given up waiting.
                    let _ = done.send(());
                }
                Order::End => return Ok(()),
            }
        }
        while let Some((to, frame)) = fabric.departing(Instant::now()) {
            ports[to].send(&frame)?;
        }
        wait(ports, bell, fabric.deadline())?;
        let mut count = [0; 8];
        // EAGAIN: the bell did not ring.
        let _ = rustix::io::read(bell, &mut count);
        for (number, port) in ports.iter().enumerate() {
            for _ in 0..FRAMES_PER_TURN {
                let Some(length) = port.receive(&mut buffer)? else {
                    break;
                };
                fabric.arrived(number, &buffer[..length], Instant::now());
            }
        }
    }
}

/// Returns when a port or the bell has something, or the deadline has come.
fn wait(ports: &[Port], bell: &OwnedFd, deadline: Option<Instant>) -> io::Result<()> {
    let mut watched: Vec<_> = ports
        .iter()
        .map(|port| PollFd::new(port, PollFlags::IN))
        .collect();
    watched.push(PollFd::new(bell, PollFlags::IN));
    let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let timeout = rest.and_then(|rest| Timespec::try_from(rest).ok());
    match poll(&mut watched, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
