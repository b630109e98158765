//! The relay as a process: started, asked, signalled, ended with its test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::frames::{Public, unhex32};
use super::ground::{Ground, PATIENCE};

pub struct Relay {
    child: Child,
    pub addr: SocketAddr,
    pub public: Public,
    pub tls: bool,
    /// Locked only so that threads may share a relay.
    lines: Mutex<mpsc::Receiver<String>>,
    seen: Vec<String>,
    ended: Option<ExitStatus>,
}

impl Relay {
    /// In plain HTTP.
    pub fn start(ground: Ground, args: &[&str]) -> Self {
        Self::spawn(command().args(flags(ground)).args(args))
    }

    /// With a certificate that it makes itself.
    pub fn start_tls(ground: Ground, args: &[&str]) -> Self {
        Self::spawn(command().args(flags(ground)).arg("--cert-mode=self-signed").args(args))
    }

    /// Waits until it accepts connections. It says then where, also when it chose the port itself.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut relay = Self {
            child,
            addr: SocketAddr::from(([0, 0, 0, 0], 0)),
            public: [0; 32],
            tls: false,
            lines: Mutex::new(lines),
            seen: Vec::new(),
            ended: None,
        };
        relay.expect_line("  clients  ");
        let listening = relay.value("listening").to_owned();
        let address = listening.split("//").nth(1).and_then(|rest| rest.strip_suffix("/derp"));
        relay.addr = address.and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("no address in {listening:?}"));
        relay.tls = listening.starts_with("https:");
        relay.public = unhex32(relay.value("public key").strip_prefix("nodekey:").unwrap());
        relay
    }

    /// What the start block says under `name`.
    pub fn value(&self, name: &str) -> &str {
        let line = self.seen.iter().find_map(|line| line.strip_prefix("  ")?.strip_prefix(name));
        line.unwrap_or_else(|| panic!("expected a line {name:?} in the start block: {:#?}", self.seen)).trim()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for a line of its log, from the start on.
    pub fn expect_line(&mut self, part: &str) -> String {
        loop {
            if let Some(line) = self.seen.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            match self.lines.get_mut().unwrap().recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("expected a line with {part:?} from the relay; it wrote {:#?}", self.tail()),
            }
        }
    }

    /// What it has written so far.
    pub fn lines(&mut self) -> &[String] {
        self.seen.extend(self.lines.get_mut().unwrap().try_iter());
        &self.seen
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Whether its log has had such a line so far.
    pub fn has_said(&mut self, part: &str) -> bool {
        self.seen.extend(self.lines.get_mut().unwrap().try_iter());
        self.seen.iter().any(|line| line.contains(part))
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.ended = Some(status);
                return status;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("expected the relay to end; it wrote {:#?}", self.tail());
    }

    /// One plain HTTP request on a connection of its own; the whole answer.
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_else(|e| panic!("expected an answer to GET {path}: {e}"));
        answer
    }

    /// The `derp` counters of `/debug/vars`.
    pub fn vars(&self) -> serde_json::Value {
        self.all_vars()["derp"].take()
    }

    pub fn all_vars(&self) -> serde_json::Value {
        let answer = self.get("/debug/vars");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(head.starts_with("HTTP/1.1 200 "), "expected 200 for /debug/vars: {head}");
        serde_json::from_str(body).unwrap()
    }

    fn tail(&mut self) -> &[String] {
        self.seen.extend(self.lines.get_mut().unwrap().try_iter());
        &self.seen[self.seen.len().saturating_sub(30)..]
    }
}

impl Drop for Relay {
    /// Whatever a test was about: the relay neither died of it nor lost a thread.
    fn drop(&mut self) {
        let died = self.ended.is_none() && !matches!(self.child.try_wait(), Ok(None));
        let _ = self.child.kill();
        let status = self.child.wait();
        // The log is complete when its writer is gone.
        while let Ok(line) = self.lines.get_mut().unwrap().recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        let panicked = self.seen.iter().any(|line| line.contains("panicked at"));
        if thread::panicking() {
            eprintln!("the relay's last words: {:#?}", self.tail());
            return;
        }
        assert!(!died, "the relay ended by itself with {status:?}: {:#?}", self.tail());
        assert!(!panicked, "a thread of the relay panicked: {:#?}", self.tail());
    }
}

/// The binary with nothing of our environment.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_derpring"));
    command.env_clear();
    command
}

/// A development relay on a port of its choice.
pub fn flags(ground: Ground) -> Vec<String> {
    let backend = format!("--backend={}", ground.backend);
    let workers = format!("--workers={}", ground.workers);
    ["serve", "--dev", "--listen=127.0.0.1:0", &backend, &workers].map(str::to_owned).to_vec()
}

/// The exit status as a shell would give it.
pub fn status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
