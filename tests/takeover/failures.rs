//! Takeovers that fail: the relay that runs goes on as if nobody had asked, and says why.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::relay_support::ground::{leave_out, on_backends};
use crate::relay_support::process::{command, status};
use crate::relay_support::*;
use crate::stage::Stage;

/// The one line with which a relay does not start.
#[track_caller]
fn refusal(command: &mut Command) -> String {
    let run = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(status(run.status), 1, "{text}");
    let said: Vec<&str> = text.lines().filter(|line| line.starts_with("derpring: ")).collect();
    assert_eq!(said.len(), 1, "{text}");
    said[0].to_owned()
}

/// The relay serves, and its sessions have noticed nothing.
#[track_caller]
fn goes_on(relay: &mut Relay, session: &mut Client) {
    assert!(relay.is_running());
    session.expect_quiet();
    visit(relay).log_in().expect_quiet();
}

fn a_successor_that_cannot_start_changes_nothing(ground: Ground) {
    let stage = Stage::new(ground, &["--drain-time=1"]);
    let admin = format!("--admin-listen=unix:{}", stage.path("admin").display());
    let mut relay = stage.next_to_nobody(&["--listen=127.0.0.1:0", &admin]);
    let mut session = visit(&relay).log_in();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen=127.0.0.1:0,{}", taken.local_addr().unwrap());
    for (args, text) in [
        (vec![listen.as_str(), &admin], "another process has this port"),
        (vec!["--listen=127.0.0.1:0", &admin, "--cert-mode=manual", "--cert-dir=/nowhere"], "/nowhere"),
        (vec!["--listen=127.0.0.1:0", &admin, "--max-clients=99999999"], "--max-clients"),
    ] {
        let said = refusal(&mut stage.successor(&args));
        assert!(said.contains(text), "{said}");
        goes_on(&mut relay, &mut session);
    }
    relay.expect_line("a takeover failed: this relay goes on");
    assert!(stage.path("admin").exists() && stage.takeover_socket().exists());
    // The next one has better luck.
    let next = stage.next(&[&admin]);
    assert_eq!(status(relay.wait()), 0);
    visit(&next).log_in().expect_quiet();
}

/// Killed anywhere on its way in.
fn a_successor_that_dies_changes_nothing(ground: Ground) {
    let stage = Stage::new(ground, &["--drain-time=1"]);
    let mut relay = stage.first();
    let mut session = visit(&relay).log_in();
    let mut over = 0;
    for step in 0..12 {
        let mut child = stage.successor(&[]).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(step * 8));
        child.kill().unwrap();
        child.wait().unwrap();
        // One that had come so far as to serve was no failure.
        if !gives_its_sockets(&stage) {
            relay.expect_line("another relay has taken over");
            over += 1;
            break;
        }
        goes_on(&mut relay, &mut session);
    }
    eprintln!("{}: {over} of the killed had taken over", ground.backend);
    if over > 0 {
        assert_eq!(status(relay.wait()), 0);
    }
}

/// Whether the relay offers its sockets to one more. It listens to one after the other, and to nobody once it has a
/// successor: all who came before are dealt with.
fn gives_its_sockets(stage: &Stage) -> bool {
    let heard = Stranger::connect(stage).and_then(|mut stranger| {
        stranger.try_say(HELLO)?;
        stranger.try_hear()
    });
    match heard {
        Ok(words) if words.is_empty() => false,
        Ok(words) => {
            assert!(words.contains(r#""say":"offer""#), "{words}");
            true
        }
        Err(error) => {
            let gone = [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(gone.contains(&error.kind()), "expected an offer or an end: {error}");
            false
        }
    }
}

/// Something that speaks to the takeover socket in words of its own.
struct Stranger(UnixStream);

impl Stranger {
    fn new(stage: &Stage) -> Self {
        Self::connect(stage).unwrap()
    }

    fn connect(stage: &Stage) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.connect(&SockAddr::unix(stage.takeover_socket())?)?;
        let stream = UnixStream::from(std::os::fd::OwnedFd::from(socket));
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    fn say(&self, text: &str) {
        self.try_say(text).unwrap();
    }

    fn try_say(&self, text: &str) -> io::Result<()> {
        rustix::net::send(&self.0, text.as_bytes(), rustix::net::SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn hear(&mut self) -> String {
        self.try_hear().unwrap()
    }

    /// Descriptors that come along are closed by the kernel: there is no room for them.
    fn try_hear(&mut self) -> io::Result<String> {
        let mut text = vec![0; 65536];
        let len = self.0.read(&mut text)?;
        text.truncate(len);
        Ok(String::from_utf8(text).unwrap())
    }
}

const HELLO: &str = r#"{"say":"hello","protocol":1,"version":"test"}"#;

fn nonsense_changes_nothing(ground: Ground) {
    let stage = Stage::new(ground, &[]);
    let mut relay = stage.first();
    let mut session = visit(&relay).log_in();
    let long = format!(r#"{{"say":"refused","why":"{}"}}"#, "x".repeat(60_000));
    for words in [
        &["\0\0\0"][..],
        &["{}"],
        &[r#"{"say":"open"}"#],
        &[r#"{"say":"hello","protocol":2,"version":"test"}"#],
        &[&long],
        &[HELLO, HELLO],
        &[HELLO, r#"{"say":"refused","why":"no certificate"}"#],
        &[HELLO, r#"{"say":"ready"}"#, r#"{"say":"ready"}"#],
    ] {
        let mut stranger = Stranger::new(&stage);
        words.iter().for_each(|word| stranger.say(word));
        let mut last = String::new();
        while last.is_empty() || !last.contains("refused") {
            last = stranger.hear();
            assert!(!last.is_empty(), "expected a word before the end, after {words:?}");
        }
        goes_on(&mut relay, &mut session);
    }
    // Hung up at every step.
    for words in [&[][..], &[HELLO], &[HELLO, r#"{"say":"ready"}"#]] {
        let mut stranger = Stranger::new(&stage);
        for word in words {
            stranger.say(word);
            stranger.hear();
        }
        drop(stranger);
        goes_on(&mut relay, &mut session);
    }
    // One that says nothing holds up the others for a while, and not for ever.
    let silent = Stranger::new(&stage);
    goes_on(&mut relay, &mut session);
    relay.expect_line("a takeover failed: this relay goes on");
    let begin = Instant::now();
    loop {
        let mut child = stage.successor(&[]).stderr(Stdio::null()).spawn().unwrap();
        let ended = loop {
            if relay.has_said("another relay has taken over") {
                break None;
            }
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            thread::sleep(Duration::from_millis(10));
        };
        let Some(ended) = ended else {
            assert_eq!(status(relay.wait()), 0);
            child.kill().unwrap();
            child.wait().unwrap();
            break;
        };
        assert_eq!(status(ended), 1);
        assert!(begin.elapsed() < 3 * PATIENCE, "a silent one is in the way");
    }
    drop(silent);
}

fn a_relay_that_stops_gives_nothing(ground: Ground) {
    let stage = Stage::new(ground, &["--drain-time=3600"]);
    let mut relay = stage.first();
    let session = visit(&relay).log_in();
    relay.signal(Signal::TERM);
    relay.expect_line("draining");
    let said = refusal(&mut stage.successor(&[]));
    assert!(said.contains("cannot take over at") && said.contains("start without --takeover"), "{said}");
    relay.signal(Signal::TERM);
    assert_eq!(status(relay.wait()), 0);
    drop(session);
}

fn it_says_what_is_wrong_with_the_path(ground: Ground) {
    let stage = Stage::new(ground, &[]);
    let said = refusal(&mut stage.successor(&[]));
    assert!(said.contains("no relay gives its sockets there: start without --takeover"), "{said}");
    fs::write(stage.takeover_socket(), "precious").unwrap();
    refusal(&mut stage.successor(&[]));
    let first = || stage.next_command(&["--listen=127.0.0.1:0"]);
    assert!(refusal(&mut first()).contains("a file that is no socket"));
    assert_eq!(fs::read_to_string(stage.takeover_socket()).unwrap(), "precious");
    fs::remove_file(stage.takeover_socket()).unwrap();
    let other = UnixListener::bind(stage.takeover_socket()).unwrap();
    assert!(refusal(&mut stage.successor(&[])).contains("what listens there is no relay"));
    drop(other);
    let relay = stage.first();
    assert!(refusal(&mut first()).contains("take over from it with --takeover"), "two relays with one path");
    drop(relay);
    let said = refusal(command().args(["serve", "--dev", "--listen=127.0.0.1:0", "--takeover"]));
    assert!(said.contains("--takeover needs --takeover-socket"), "{said}");
}

/// The sockets are for the same user and root.
fn another_user_gets_nothing(ground: Ground) {
    const NOBODY: u32 = 65534;
    if !geteuid().is_root() {
        return leave_out("another_user_gets_nothing", "this needs root", "DERPRING_REQUIRE_ROOT");
    }
    let stage = Stage::new(ground, &[]);
    let mut relay = stage.first();
    let mut session = visit(&relay).log_in();
    fs::set_permissions(stage.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    // Another key: that file is for root alone, too.
    let key = format!("--key-file={}", stage.path("other-key").display());
    let said = refusal(stage.without_key(&["--takeover", "--listen=127.0.0.1:0", &key]).uid(NOBODY).gid(NOBODY));
    assert!(said.contains("run this one as the same user"), "{said}");
    // Where the file lets everybody in, the relay does not.
    fs::set_permissions(stage.takeover_socket(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let said = refusal(stage.without_key(&["--takeover", "--listen=127.0.0.1:0", &key]).uid(NOBODY).gid(NOBODY));
    assert!(said.contains("as user 65534, and not as 0"), "{said}");
    goes_on(&mut relay, &mut session);
}

/// It is allowed, and the operator is told what it means.
fn another_key_is_worth_a_warning(ground: Ground) {
    let stage = Stage::new(ground, &[]);
    let mut relay = stage.first();
    let key = format!("--key-file={}", stage.path("other-key").display());
    let mut next = Relay::spawn(&mut stage.without_key(&["--takeover", "--listen=127.0.0.1:0", &key]));
    next.expect_line("the running relay has another key");
    assert_ne!(next.public, relay.public);
    assert_eq!(status(relay.wait()), 0);
}

on_backends!(
    a_successor_that_cannot_start_changes_nothing,
    a_successor_that_dies_changes_nothing,
    nonsense_changes_nothing,
    a_relay_that_stops_gives_nothing,
    it_says_what_is_wrong_with_the_path,
    another_user_gets_nothing,
    another_key_is_worth_a_warning,
);
