//! The signals that a relay obeys.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tracing::info;

/// Calls `stop` on its own thread at the first SIGTERM or SIGINT. A second one ends the process at once, with the
/// status that a shell expects, whatever state the process is in: that needs no thread. SIGHUP calls `reload`.
///
/// # Errors
/// When the system gives no handler or thread.
pub fn spawn(stop: impl FnOnce() + Send + 'static, reload: impl Fn() + Send + 'static) -> io::Result<()> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag down and raises it.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stopping))?;
        flag::register(signal, Arc::clone(&stopping))?;
    }
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || obey(signals, stop, reload))?;
    Ok(())
}

fn obey(mut signals: Signals, stop: impl FnOnce(), reload: impl Fn()) {
    let mut stop = Some(stop);
    for signal in signals.forever() {
        if signal == SIGHUP {
            reload();
        } else if let Some(stop) = stop.take() {
            info!("{}: stopping; a second signal ends at once", if signal == SIGINT { "SIGINT" } else { "SIGTERM" });
            stop();
        }
    }
}
