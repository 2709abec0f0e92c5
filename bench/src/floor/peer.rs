//! The floor's other side: a thread for each connection, which does what it is asked and answers.

use super::wire::{self, Header, Kind};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that one connection keeps open; beyond, all are closed and opened again when needed.
const OPEN_MAX: usize = 1000;

/// Serves until it is killed; prints where it listens.
///
/// # Errors
/// When it cannot listen.
pub fn serve(address: IpAddr, directory: &Path) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::new(address, 0)).context("cannot listen")?;
    let mut output = io::stdout();
    writeln!(output, "listening {}", listener.local_addr()?)?;
    output.flush()?;
    let directory: Arc<Path> = directory.into();
    for stream in listener.incoming() {
        let stream = stream.context("cannot take a connection")?;
        let files = Files {
            directory: directory.clone(),
            open: HashMap::new(),
        };
        std::thread::Builder::new()
            .spawn(move || {
                if let Err(error) = files.answer_all(stream) {
                    eprintln!("a connection ended: {error}");
                }
            })
            .context("cannot start a thread")?;
    }
    Ok(())
}

struct Files {
    directory: Arc<Path>,
    open: HashMap<u64, File>,
}

impl Files {
    fn answer_all(mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = Vec::new();
        while let Some(header) = wire::receive(&mut stream, &mut buffer)? {
            let errno = match self.carry_out(header, &buffer[..header.length]) {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            wire::answer(&mut stream, errno)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, header: Header, data: &[u8]) -> io::Result<()> {
        let file = self.file(header.inode)?;
        match header.kind {
            Kind::Write => file.write_all_at(data, header.offset),
            Kind::Fsync => file.sync_all(),
        }
    }

    fn file(&mut self, inode: u64) -> io::Result<&File> {
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&inode) {
            self.open.clear();
        }
        match self.open.entry(inode) {
            std::collections::hash_map::Entry::Occupied(open) => Ok(open.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let path: PathBuf = self.directory.join(inode.to_string());
                let file = File::options()
                    .create(true)
                    .truncate(false)
                    .read(true)
                    .write(true)
                    .open(path)?;
                Ok(place.insert(file))
            }
        }
    }
}
