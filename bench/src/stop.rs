//! Being told to stop. The first SIGINT or SIGTERM ends the run after the row under way: what was measured by then is
//! reported, and everything is removed. The second one ends the process at once; the lab's keeper then removes it.

use anyhow::{Context, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// As a shell reports a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

static TOLD: AtomicBool = AtomicBool::new(false);

/// Whether to stop.
pub fn told() -> bool {
    TOLD.load(Ordering::SeqCst)
}

/// Listens from here on, on a thread of its own.
///
/// # Errors
/// When the system refuses a thread or a handler.
pub fn listen() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    // Inside the runtime: the handlers belong to it.
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let listening = move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if TOLD.swap(true, Ordering::SeqCst) {
                    std::process::exit(INTERRUPTED);
                }
                eprintln!("  stopping after this row");
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listening)
        .context("cannot start a thread")?;
    Ok(())
}
