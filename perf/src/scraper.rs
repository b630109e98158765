//! Somebody who asks for the relay's metrics again and again while it is under load.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::error::Error;

/// Ends when it is stopped.
pub struct Scraper {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), String>>,
}

impl Scraper {
    /// So many scrapes a second, evenly.
    pub fn start(admin: PathBuf, per_second: u32) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let ending = ends.clone();
        let thread = std::thread::spawn(move || scrape(&admin, Duration::from_secs(1) / per_second, &ending));
        Self { ends, thread }
    }

    /// # Errors
    /// A scrape was not answered: the figures are those of a relay that was not scraped.
    pub fn stop(self) -> Result<(), Error> {
        self.ends.store(true, Ordering::Relaxed);
        let result = self.thread.join().unwrap_or_else(|_| Err("its thread panicked".into()));
        result.map_err(|why| Error::Output("a scrape", why))
    }
}

fn scrape(admin: &Path, every: Duration, ends: &AtomicBool) -> Result<(), String> {
    let mut body = Vec::new();
    let mut due = Instant::now();
    while !ends.load(Ordering::Relaxed) {
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut answer = || {
            let mut connection = UnixStream::connect(admin)?;
            connection.write_all(request)?;
            body.clear();
            connection.read_to_end(&mut body)
        };
        answer().map_err(|err| format!("{}: {err}", admin.display()))?;
        if !body.starts_with(b"HTTP/1.1 200 ") {
            return Err(format!("answered {:?}", String::from_utf8_lossy(&body[..body.len().min(100)])));
        }
        due += every;
        sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}
