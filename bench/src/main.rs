//! `bench`: Sidekick side by side with what users would pick instead, on one machine, in one run.
//!
//! In reading order: what it is told ([`arguments`]); what it stands on ([`ground`]); what is measured ([`system`])
//! and how ([`question`], [`work`], [`fio`], [`memory`]); the order of it all ([`rounds`]) and its early end ([`stop`]); what comes of it
//! ([`results`], [`table`], [`picture`], [`machine`]). The yardsticks that exist for the comparison alone are
//! [`floor`] and [`quic`].

mod amount;
mod arguments;
mod fio;
mod floor;
mod ground;
mod machine;
mod memory;
mod picture;
mod question;
mod quic;
mod report;
mod results;
mod rounds;
mod stop;
mod system;
mod table;
mod work;

use anyhow::Result;
use arguments::{Arguments, Inner, Service};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let done = match arguments.inner.take() {
        Some(Inner::Work { work }) => work::run(work).map(|()| ExitCode::SUCCESS),
        Some(Inner::Serve { service }) => serve(service).map(|()| ExitCode::SUCCESS),
        None => report::run(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(service: Service) -> Result<()> {
    match service {
        Service::Floor { peer, directory } => floor::serve(&directory, peer),
        Service::FloorPeer { address, directory } => floor::serve_peer(address, &directory),
        Service::QuicSink { address, certificate } => quic::serve(address, &certificate),
    }
}
