//! A directory with a relay's files, and the relay.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::relay_support::Relay;
use crate::relay_support::ground::PATIENCE;
use crate::relay_support::process::command;

pub struct Place {
    pub dir: TempDir,
    /// What every file of it begins with.
    base: String,
}

impl Place {
    /// In plain HTTP, with an admin listener of the kernel's choice of port.
    pub fn new() -> Self {
        let place = Self { dir: TempDir::new().unwrap(), base: String::new() };
        let base = format!(
            "listen = [\"127.0.0.1:0\"]\nkey_file = \"\"\nworkers = 1\nstun.listen = []\nhttp.listen = []\n\
             cert.dir = {0:?}\nadmin.listen = [\"unix:{0}/admin\"]\n",
            place.dir.path().to_str().unwrap()
        );
        Self { base, ..place }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces the file, as editors do.
    pub fn write(&self, text: &str) {
        self.write_raw(&format!("{}{text}", self.base));
    }

    pub fn write_raw(&self, text: &str) {
        fs::write(self.path("new.toml"), text).unwrap();
        fs::rename(self.path("new.toml"), self.path("relay.toml")).unwrap();
    }

    pub fn token(&self, token: &str) {
        fs::write(self.path("token"), token).unwrap();
        fs::set_permissions(self.path("token"), PermissionsExt::from_mode(0o600)).unwrap();
    }

    pub fn start(&self, text: &str, args: &[&str]) -> Reloading {
        self.write(text);
        self.start_from("relay.toml", args)
    }

    pub fn start_from(&self, name: &str, args: &[&str]) -> Reloading {
        let config = format!("--config={}", self.path(name).display());
        let relay = Relay::spawn(command().args(["serve", &config]).args(args));
        Reloading::of(relay, self.path("admin"))
    }
}

/// A relay whose configuration changes.
pub struct Reloading {
    pub relay: Relay,
    admin: PathBuf,
    before: (u64, u64),
}

impl Reloading {
    pub fn of(relay: Relay, admin: PathBuf) -> Self {
        let mut reloading = Self { relay, admin, before: (0, 0) };
        // From here on it watches: a file that changed while it started would be read once or twice.
        reloading.hangup();
        reloading.before = reloading.reloads();
        reloading
    }

    /// Asks for a reload and waits until that one has taken place, with success or not: one for a changed file may come
    /// before it. Its line in the log is behind all else that it says and counts; a filter must not leave it out.
    pub fn hangup(&mut self) {
        let before = self.answered();
        self.relay.signal(Signal::HUP);
        self.wait("the reload that was asked for", |this| this.answered() > before);
    }

    /// Reloads that were asked for and have ended.
    fn answered(&mut self) -> usize {
        let ended = |line: &&String| line.contains("reloaded") || line.contains("reload refused");
        self.relay.lines().iter().filter(ended).filter(|line| line.contains("why=\"SIGHUP\"")).count()
    }

    /// Waits until it has reloaded `taken_over` and refused `refused` times.
    pub fn expect_reloads(&mut self, taken_over: u64, refused: u64) {
        self.wait(&format!("{taken_over} and {refused} reloads"), |this| this.reloads() == (taken_over, refused));
    }

    /// Taken over and refused, since it was ready.
    pub fn reloads(&self) -> (u64, u64) {
        let of = |result: &str| self.metric(&format!("derpring_reloads_total{{result=\"{result}\"}}")) as u64;
        (of("taken_over") - self.before.0, of("refused") - self.before.1)
    }

    pub fn metric(&self, series: &str) -> f64 {
        let body = self.admin("GET", "/metrics", "");
        let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is in {body}")).parse().unwrap()
    }

    pub fn admin(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = std::os::unix::net::UnixStream::connect(&self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let len = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n");
        stream.write_all([&head, body].concat().as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub fn wait(&mut self, what: &str, mut until: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        while !until(self) {
            assert!(begin.elapsed() < PATIENCE, "expected {what}; the relay wrote {:#?}", self.relay.lines());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The first line of the answer to a request for `path`, with more header lines.
pub fn status_of(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}
