//! The signals that a relay obeys.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tracing::info;

/// Calls `stop` on its own thread at each SIGTERM or SIGINT; it says whether the next one shall end the process at
/// once, with the status that a shell expects, whatever state the process is in: that needs no thread. SIGHUP calls
/// `reload`.
///
/// # Errors
/// When the system gives no handler or thread.
pub fn spawn(stop: impl FnMut() -> Next + Send + 'static, reload: impl Fn() + Send + 'static) -> io::Result<()> {
    let impatient = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&impatient))?;
    }
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || obey(signals, &impatient, stop, reload))?;
    Ok(())
}

/// What the next signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ends a drain.
    Hurries,
    /// Ends the process.
    Kills,
}

fn obey(mut signals: Signals, impatient: &AtomicBool, mut stop: impl FnMut() -> Next, reload: impl Fn()) {
    for signal in signals.forever() {
        if signal == SIGHUP {
            reload();
            continue;
        }
        let next = stop();
        let then = match next {
            Next::Hurries => "a second signal stops without waiting for sessions",
            Next::Kills => "another signal ends at once",
        };
        impatient.store(next == Next::Kills, Ordering::Release);
        info!("{}: stopping; {then}", if signal == SIGINT { "SIGINT" } else { "SIGTERM" });
    }
}
