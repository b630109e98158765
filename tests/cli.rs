//! The command line from outside: what is refused, in which words, with which exit status; then starts and stops.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

#[test]
fn versions_go_to_standard_output() {
    for args in [&["--version"][..], &["derper", "-version"], &["derper", "--version=true", "-a=:1"]] {
        let run = derpring(args);
        assert_eq!(status(&run), 0, "{args:?}");
        assert_eq!(stdout(&run), format!("derpring {}\n", env!("CARGO_PKG_VERSION")), "{args:?}");
    }
}

#[test]
fn help_is_no_error() {
    for flag in ["-h", "-help", "--help"] {
        let run = derpring(&["derper", flag]);
        assert_eq!(status(&run), 0);
        let text = stderr(&run);
        assert!(text.starts_with("Usage of derper:\n  -a string\n"), "{text}");
        for name in ["-certmode string", "-tcp-write-timeout duration", "-stun-port int", "-verify-clients\n"] {
            assert!(text.contains(&format!("\n  {name}")), "{name} is missing in {text}");
        }
    }
    let run = derpring(&["serve", "--help"]);
    assert_eq!(status(&run), 0);
    for flag in ["--dev", "--listen", "--cert-mode", "--key-file", "--queue-packets", "--max-clients-per-ip"] {
        assert!(stdout(&run).contains(flag), "{flag} is missing in {}", stdout(&run));
    }
}

#[test]
fn called_as_derper_it_is_derper() {
    let run = finished(Command::new(env!("CARGO_BIN_EXE_derpring")).arg0("/usr/local/bin/derper").args(["-version"]));
    assert_eq!((status(&run), stdout(&run).starts_with("derpring ")), (0, true));
    let run = finished(Command::new(env!("CARGO_BIN_EXE_derpring")).arg0("derper").args(["serve"]));
    assert_eq!(status(&run), 2);
    assert!(stderr(&run).starts_with("derpring: unexpected argument \"serve\""), "{}", stderr(&run));
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    for args in [&["serve", "--no-such-flag"][..], &["serve", "extra"], &["no-such-command"], &[]] {
        assert_eq!(status(&derpring(args)), 2, "{args:?}");
    }
    for (args, message) in [
        (&["derper", "-no-such-flag"][..], "flag provided but not defined: -no-such-flag"),
        (&["derper", "-a"], "flag needs an argument: -a"),
        (&["derper", "-stun=perhaps"], "invalid value \"perhaps\" for flag -stun: write true or false"),
        (&["derper", "-tcp-write-timeout=2"], "invalid value \"2\" for flag -tcp-write-timeout: write a duration"),
        (&["derper", "-dev", "true"], "unexpected argument \"true\""),
    ] {
        let run = derpring(args);
        assert_eq!(status(&run), 2, "{args:?}");
        let text = stderr(&run);
        let (first, usage) = text.split_once('\n').unwrap();
        assert!(first.starts_with(&format!("derpring: {message}")), "{args:?}: {first}");
        assert!(usage.starts_with("Usage of derper:\n"), "{args:?}: {usage}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for (args, message) in [
        (&["derper", "-dev", "-verify-clients"][..], "-verify-clients is not built yet"),
        (&["derper", "-dev", "-mesh-with", "a.example"], "-mesh-with is not built yet"),
    ] {
        refused(&derpring(args), message);
    }
}

#[test]
fn a_value_that_cannot_be_used_gets_one_line() {
    for (args, message) in [
        (&["serve"][..], "--cert-mode is missing"),
        (&["serve", "--dev", "--listen=nonsense"], "--listen \"nonsense\": the port is missing"),
        (&["serve", "--dev", "--listen", ""], "--listen \"\""),
        (&["serve", "--dev", "--admin-listen=2112"], "--admin-listen \"2112\": the port is missing"),
        (&["serve", "--dev", "--admin-allow=10.0.0.1/8"], "--admin-allow \"10.0.0.1/8\": has bits behind its prefix"),
        (&["serve", "--dev", "--admin-token-file=/nowhere"], "--admin-token-file \"/nowhere\": cannot be read"),
        (&["serve", "--dev", "--workers=none"], "--workers \"none\": give a number"),
        (&["serve", "--dev", "--backend=kqueue"], "--backend \"kqueue\": give auto, uring or epoll"),
        (&["serve", "--dev", "--queue-packets=1"], "--queue-packets \"1\": give a number from 32"),
        (&["serve", "--cert-mode=manual"], "--hostname is missing"),
        (&["derper", "-dev", "-home=www.example"], "-home \"www.example\": give an http"),
        (&["derper", "-a=8443"], "-a \"8443\": the port is missing"),
        (&["derper", "-a=:8443", "-certmode=auto"], "-certmode \"auto\""),
        (&["derper", "-c=/k", "-certmode=manual", "-certdir="], "-certdir is empty"),
    ] {
        refused(&derpring(args), message);
    }
}

#[test]
fn the_environment_stands_in_for_flags() {
    let run = finished(command().args(["serve", "--dev"]).env("DERPRING_BACKEND", "kqueue"));
    refused(&run, "DERPRING_BACKEND \"kqueue\"");
    let run = finished(command().args(["serve", "--dev", "--backend=select"]).env("DERPRING_BACKEND", "epoll"));
    refused(&run, "--backend \"select\"");
    let run = finished(command().args(["derper", "-dev"]).env("TAILSCALE_DERPER_MESH_KEY", "short"));
    refused(&run, "TAILSCALE_DERPER_MESH_KEY must hold");
    let run = finished(command().args(["serve", "--dev"]).env("DERPRING_LOG", "a=b=c"));
    refused(&run, "DERPRING_LOG \"a=b=c\"");
}

#[test]
fn a_wrong_mesh_key_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("mesh.key");
    for content in ["", "abc", &"0".repeat(65)] {
        fs::write(&path, content).unwrap();
        let message = format!("the mesh key file {} must hold exactly 64 hex characters", path.display());
        refused(&derpring(&["serve", "--dev", "--mesh-key-file", text(&path)]), &message);
        refused(&derpring(&["derper", "-a=127.0.0.1:0", "-c=/k", "-mesh-psk-file", text(&path)]), &message);
    }
    let missing = text(dir.path()).to_owned() + "/none";
    refused(&derpring(&["serve", "--dev", "--mesh-key-file", &missing]), "cannot read the key file");
}

#[test]
fn keys_are_made_and_shown() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("new/node.key");
    let first = derpring(&["key", "node", text(&path)]);
    assert_eq!(status(&first), 0);
    let shown = stdout(&first);
    assert!(shown.starts_with("nodekey:") && shown.len() == 8 + 64 + 1, "{shown}");
    assert_eq!(stdout(&derpring(&["key", "node", text(&path)])), shown);

    let mesh = stdout(&derpring(&["key", "mesh"]));
    assert_eq!(mesh.trim().len(), 64);
    assert_ne!(mesh, stdout(&derpring(&["key", "mesh"])));

    fs::write(&path, "{}").unwrap();
    refused(&derpring(&["key", "node", text(&path)]), "the key file");
}

// From here on the relay itself is started.

#[test]
fn a_bad_key_file_stops_the_start_and_stays() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("bad.key");
    fs::write(&path, "{\"PrivateKey\": \"privkey:12\"}").unwrap();
    let message = format!("the key file {} is not usable: PrivateKey is not", path.display());
    refused(&derpring(&["serve", "--dev", "--listen=127.0.0.1:0", "--key-file", text(&path)]), &message);
    refused(&derpring(&["derper", "-a=127.0.0.1:0", "-c", text(&path)]), &message);
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"PrivateKey\": \"privkey:12\"}");
}

#[test]
fn a_certificate_that_cannot_be_read_stops_the_start() {
    let dir = TempDir::new().unwrap();
    let crt = dir.path().join("relay.example.crt");
    let hostname = "--hostname=relay.example";
    let serve =
        ["serve", "--dev", "--listen=127.0.0.1:0", "--cert-mode=manual", hostname, "--cert-dir", text(dir.path())];
    refused(&derpring(&serve), &format!("cannot read {}", crt.display()));
    fs::write(&crt, "nonsense").unwrap();
    refused(&derpring(&serve), &format!("{} holds no certificate", crt.display()));
    let certdir = format!("-certdir={}", dir.path().display());
    let derper = ["derper", "-dev", "-certmode=manual", "-hostname=other.example", &certdir];
    refused(&derpring(&derper), &format!("cannot read {}/other.example.crt", dir.path().display()));
}

#[test]
fn a_port_in_use_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let run = derpring(&["serve", "--dev", "--listen", &addr]);
    assert_eq!(status(&run), 1);
    let text = stderr(&run);
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("derpring: ") && last.contains(&addr), "{text}");
}

#[test]
fn too_many_clients_for_the_descriptors_is_said_with_numbers() {
    let run = derpring(&["serve", "--dev", "--listen=127.0.0.1:0", "--max-clients=1000000000000"]);
    refused(&run, "--max-clients 1000000000000 needs");
    assert!(stderr(&run).contains("LimitNOFILE"), "{}", stderr(&run));
}

#[test]
fn a_signal_stops_it_and_hangup_does_not() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let (mut relay, addr) = Relay::start(&["serve", "--dev"]);
        relay.signal(Signal::HUP);
        relay.expect_line("reloaded");
        assert!(answers(&addr), "SIGHUP must not end it");
        relay.signal(signal);
        relay.expect_line(name);
        assert_eq!(relay.wait().code(), Some(0), "{name}");
    }
}

#[test]
fn derper_starts_with_an_ip_and_makes_its_certificate() {
    let dir = TempDir::new().unwrap();
    let certdir = format!("-certdir={}", dir.path().display());
    let key = dir.path().join("derper.key");
    let args = ["-certmode=manual", "-hostname=127.0.0.1", &certdir, "-c", text(&key), "-stun=false", "-http-port=-1"];
    let (mut relay, addr) = Relay::start(&[&["derper"], &args[..]].concat());
    relay.expect_line("sha256-raw:");
    assert!(TcpStream::connect(&addr).is_ok());
    for file in ["127.0.0.1.crt", "127.0.0.1.key", "derper.key"] {
        assert!(dir.path().join(file).exists(), "{file}");
    }
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait().code(), Some(0));
}

/// A relay on a free port, ended with the test.
struct Relay {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Relay {
    /// Waits until it accepts connections, and says where.
    fn start(args: &[&str]) -> (Self, String) {
        let listen = if args[0] == "derper" { "-a" } else { "--listen" };
        let mut child = command().args(args).args([listen, "127.0.0.1:0"]).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut relay = Self { child, lines, seen: Vec::new() };
        relay.expect_line("  listening ");
        let line = relay.seen.iter().find_map(|line| line.strip_prefix("  listening "));
        let addr = line.and_then(|line| line.split_once("//")?.1.strip_suffix("/derp")).map(str::to_owned);
        let addr = addr.unwrap_or_else(|| panic!("no address in {:?}", relay.seen));
        assert!(addr.starts_with("127.0.0.1:") && TcpStream::connect(&addr).is_ok(), "{:?}", relay.seen);
        (relay, addr)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for a line of the log, from the start on.
    fn expect_line(&mut self, part: &str) {
        while !self.seen.iter().any(|line| line.contains(part)) {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("no line with {part:?} in {:?}", self.seen),
            }
        }
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        ended(&mut self.child).expect("it ends")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What any step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether plain HTTP answers a probe.
fn answers(addr: &str) -> bool {
    use std::io::Write;
    let Ok(mut stream) = TcpStream::connect(addr) else {
        return false;
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /derp/probe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).is_ok() && start == *b"HTTP/1.1 200"
}

/// Exit status 1, and a last line on standard error that begins with `message`, the only one of its kind.
#[track_caller]
fn refused(run: &Output, message: &str) {
    let text = stderr(run);
    assert_eq!(status(run), 1, "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with(&format!("derpring: {message}")), "wanted {message:?} in {text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("derpring: ")).count(), 1, "{text}");
    assert_eq!(stdout(run), "");
}

fn derpring(args: &[&str]) -> Output {
    finished(command().args(args))
}

/// The binary with nothing of our environment.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_derpring"));
    command.env_clear();
    command
}

/// Runs `command` to its end, and fails when it has none.
fn finished(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = ended(&mut child);
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    assert!(end.is_some(), "{command:?} was expected to end: {}", stderr(&output));
    output
}

fn ended(child: &mut Child) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

fn status(run: &Output) -> i32 {
    run.status.code().unwrap_or(-1)
}

fn stdout(run: &Output) -> String {
    String::from_utf8_lossy(&run.stdout).into_owned()
}

fn stderr(run: &Output) -> String {
    String::from_utf8_lossy(&run.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
