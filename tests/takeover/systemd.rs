//! What systemd does with sockets, done by its own `systemd-socket-activate` and by a launcher that passes what systemd
//! would pass.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;

use crate::relay_support::ground::{leave_out, on_backends};
use crate::relay_support::process::{flags, status};
use crate::relay_support::*;
use crate::stage::Stage;

/// Started by systemd's own tool, which waits for the first connection.
fn systemd_passes_the_main_listener(ground: Ground) {
    const TOOL: &str = "systemd-socket-activate";
    if Command::new(TOOL).arg("--version").stdout(Stdio::null()).status().is_err() {
        return leave_out(
            "systemd_passes_the_main_listener",
            "systemd-socket-activate is not here",
            "DERPRING_REQUIRE_TOOLS",
        );
    }
    // The tool tells nobody which port the kernel gave it. At this address no other test takes it meanwhile.
    let at = TcpListener::bind("127.0.0.29:0").unwrap().local_addr().unwrap();
    let waiting = std::thread::spawn(move || {
        let begin = std::time::Instant::now();
        loop {
            match TcpStream::connect(at) {
                Ok(socket) => return socket,
                Err(error) => assert!(begin.elapsed() < PATIENCE, "the tool does not listen: {error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    });
    let mut command = Command::new(TOOL);
    command.args(["--listen", &at.to_string(), "--fdname=main", env!("CARGO_BIN_EXE_derpring")]).args(flags(ground));
    let relay = Relay::spawn(&mut command);
    // The configuration says another address: the unit counts.
    assert_eq!(relay.addr, at);
    let visit = visit(&relay);
    visit.log_in_on(visit.over(waiting.join().unwrap())).expect_quiet();
    visit.log_in().expect_quiet();
}

/// What a service is started with: two sockets at most, which a shell puts in their places.
struct Service {
    sockets: Vec<(&'static str, OwnedFd)>,
    notify: Option<UnixDatagram>,
    dir: tempfile::TempDir,
}

impl Service {
    fn new() -> Self {
        Self { sockets: Vec::new(), notify: None, dir: tempfile::TempDir::new().unwrap() }
    }

    fn pass(mut self, name: &'static str, socket: impl Into<OwnedFd>) -> Self {
        self.sockets.push((name, socket.into()));
        self
    }

    /// systemd's end of the notes.
    fn listen(&mut self) {
        let socket = UnixDatagram::bind(self.dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        self.notify = Some(socket);
    }

    fn start(&self, ground: Ground, args: &[&str]) -> Command {
        const SCRIPT: [&str; 3] = [
            r#"exec "$@""#,
            r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#,
            r#"exec 3<&0 </dev/null 4<&1 >/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec "$@""#,
        ];
        let mut command = Command::new("/bin/sh");
        command.env_clear().args(["-c", SCRIPT[self.sockets.len()], "sh", env!("CARGO_BIN_EXE_derpring")]);
        let listens = args.iter().any(|arg| arg.starts_with("--listen"));
        command.args(flags(ground).into_iter().filter(|arg| !listens || !arg.starts_with("--listen"))).args(args);
        let names: Vec<&str> = self.sockets.iter().map(|(name, _)| *name).collect();
        command.env("LISTEN_FDNAMES", names.join(":"));
        if self.notify.is_some() {
            command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        }
        let mut sockets = self.sockets.iter().map(|(_, fd)| Stdio::from(fd.try_clone().unwrap()));
        command.stdin(sockets.next().unwrap_or_else(Stdio::null));
        command.stdout(sockets.next().unwrap_or_else(Stdio::null));
        command
    }

    /// The next note, with its descriptor.
    fn note(&self) -> (String, Option<OwnedFd>) {
        let mut text = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let notify = self.notify.as_ref().expect("it listens");
        let got = recvmsg(notify, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let len = got.expect("expected a note from the relay").bytes;
        let mut sockets: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                sockets.extend(rights);
            }
        }
        assert!(sockets.len() < 2);
        (String::from_utf8(text[..len].to_vec()).unwrap(), sockets.pop())
    }
}

fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn sockets_are_known_by_name_or_address(ground: Ground) {
    let (main, admin) = (bind(), bind());
    let (at, admin_at) = (main.local_addr().unwrap(), admin.local_addr().unwrap());
    let service = Service::new().pass("main", main).pass("derpring.socket", admin);
    let listen = format!("--admin-listen={admin_at}");
    let mut relay = Relay::spawn(&mut service.start(ground, &[&listen]));
    assert_eq!(relay.addr, at);
    assert!(relay.lines().contains(&format!("  admin       http://{admin_at}/")), "{:#?}", relay.lines());
    visit(&relay).log_in().expect_quiet();
    relay.signal(Signal::TERM);
    assert_eq!(status(relay.wait()), 0);
    // The sockets are systemd's: who connects now waits for the next run.
    let waiting = TcpStream::connect(at).unwrap();
    let relay = Relay::spawn(&mut service.start(ground, &[&listen]));
    let visit = visit(&relay);
    visit.log_in_on(visit.over(waiting)).expect_quiet();
}

fn what_cannot_be_used_is_refused_in_words(ground: Ground) {
    let refusal = |service: &Service, args: &[&str]| {
        let run = service.start(ground, args).output().unwrap();
        assert_eq!(status(run.status), 1);
        String::from_utf8(run.stderr).unwrap()
    };
    let text = refusal(&Service::new().pass("web", bind()), &[]);
    assert!(text.contains("named \"web\", that nothing here uses") && text.contains("FileDescriptorName="), "{text}");
    let file = tempfile::tempfile().unwrap();
    let text = refusal(&Service::new().pass("main", file), &[]);
    assert!(text.contains("takes neither connections nor datagrams"), "{text}");
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let text = refusal(&Service::new().pass("main", datagrams), &[]);
    assert!(text.contains("does not take sockets of that kind"), "{text}");
    let mut announced = Service::new().start(ground, &[]);
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=many exec "$@""#;
    let args: Vec<_> = announced.get_args().skip(2).map(ToOwned::to_owned).collect();
    announced = Command::new("/bin/sh");
    let run = announced.arg("-c").arg(script).args(args).output().unwrap();
    let text = String::from_utf8(run.stderr).unwrap();
    assert!(text.contains("LISTEN_FDS=\"many\" is not a number"), "{text}");
}

/// What is meant for somebody else is left alone.
fn the_environment_of_a_parent_means_nothing(ground: Ground) {
    let mut command = Service::new().start(ground, &[]);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "7").env("LISTEN_FDNAMES", "main");
    command.env("NOTIFY_SOCKET", "/nowhere/notify");
    let mut relay = Relay::spawn(&mut command);
    relay.expect_line("systemd does not hear us");
    visit(&relay).log_in().expect_quiet();
}

/// systemd keeps the listening sockets while there is no relay: nobody is refused over a restart.
fn a_restart_refuses_nobody(ground: Ground) {
    let mut service = Service::new();
    service.listen();
    let unix = format!("--admin-listen=unix:{}", service.dir.path().join("admin").display());
    let mut relay = Relay::spawn(&mut service.start(ground, &[&unix]));
    let mut stored = Vec::new();
    loop {
        match service.note() {
            (text, Some(socket)) => stored.push((text, socket)),
            (text, None) => {
                assert_eq!(text, "READY=1");
                break;
            }
        }
    }
    let names: Vec<&str> = stored.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(names, ["FDSTORE=1\nFDNAME=derpring-main", "FDSTORE=1\nFDNAME=derpring-admin"]);
    let at = relay.addr;
    for _ in 0..3 {
        let mut session = visit(&relay).log_in();
        relay.signal(Signal::TERM);
        assert_eq!(service.note().0, "STOPPING=1");
        session.until_end();
        assert_eq!(status(relay.wait()), 0);
        let waiting = TcpStream::connect(at).unwrap();
        let mut next = Service::new();
        for ((_, socket), name) in stored.iter().zip(["derpring-main", "derpring-admin"]) {
            next = next.pass(name, socket.try_clone().unwrap());
        }
        next.dir = service.dir;
        next.notify = service.notify;
        service = next;
        let listen = format!("--listen={at}");
        relay = Relay::spawn(&mut service.start(ground, &[&listen, &unix]));
        assert_eq!(relay.addr, at);
        let visit = visit(&relay);
        visit.log_in_on(visit.over(waiting)).expect_quiet();
        // They are in the store still; saying so again does no harm.
        let notes: Vec<String> = (0..3).map(|_| service.note().0).collect();
        assert_eq!(notes.last().map(String::as_str), Some("READY=1"), "{notes:?}");
    }
    // Where the configuration has changed since, what was stored is let go of.
    relay.signal(Signal::TERM);
    assert_eq!(service.note().0, "STOPPING=1");
    assert_eq!(status(relay.wait()), 0);
    let _other = Relay::spawn(&mut service.start(ground, &["--listen=127.0.0.2:0", &unix]));
    assert_eq!(service.note().0, "FDSTOREREMOVE=1\nFDNAME=derpring-main");
}

/// `systemctl reload` of a unit of Type=notify-reload waits for its end.
fn a_reload_says_when_it_begins_and_ends(ground: Ground) {
    let mut service = Service::new();
    service.listen();
    let relay = Relay::spawn(&mut service.start(ground, &[]));
    while service.note().0 != "READY=1" {}
    for _ in 0..2 {
        relay.signal(Signal::HUP);
        let (begin, _) = service.note();
        let since = begin.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(str::parse::<u64>);
        assert!(matches!(since, Some(Ok(1..))), "{begin}");
        assert_eq!(service.note().0, "READY=1");
    }
    visit(&relay).log_in().expect_quiet();
}

/// systemd follows from one process to the next.
fn a_takeover_says_who_the_service_is(ground: Ground) {
    let stage = Stage::new(ground, &[]);
    let notes = UnixDatagram::bind(stage.path("notify")).unwrap();
    notes.set_read_timeout(Some(PATIENCE)).unwrap();
    let note = || {
        let mut text = [0; 4096];
        let len = notes.recv(&mut text).unwrap();
        String::from_utf8(text[..len].to_vec()).unwrap()
    };
    let mut first = stage.next_command(&["--listen=127.0.0.1:0", "--drain-time=1"]);
    let mut old = Relay::spawn(first.env("NOTIFY_SOCKET", stage.path("notify")));
    while note() != "READY=1" {}
    // From a shell: it does not know of systemd.
    let next = stage.next(&[]);
    assert_eq!(note(), format!("MAINPID={}", next.pid().as_raw_nonzero()));
    assert_eq!(status(old.wait()), 0);
    notes.set_nonblocking(true).unwrap();
    let mut text = [0; 4096];
    while let Ok(len) = notes.recv(&mut text) {
        let text = String::from_utf8_lossy(&text[..len]).into_owned();
        assert!(!text.contains("STOPPING"), "the service does not stop: {text}");
    }
}

/// The units of deploy/systemd, by systemd's own judgement.
#[test]
fn the_units_are_valid() {
    const TOOL: &str = "systemd-analyze";
    if Command::new(TOOL).arg("--version").stdout(Stdio::null()).status().is_err() {
        return leave_out("the_units_are_valid", "systemd-analyze is not here", "DERPRING_REQUIRE_TOOLS");
    }
    let dir = tempfile::TempDir::new().unwrap();
    let units = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    // Where the binary will be is not where it is.
    let unit = |name: &str| {
        let text = std::fs::read_to_string(units.join(name)).unwrap();
        text.replace("/usr/bin/derpring", env!("CARGO_BIN_EXE_derpring"))
    };
    let written = [
        ("derpring.service", unit("derpring.service")),
        ("derpring.socket", unit("derpring.socket")),
        ("derper.service", format!("[Service]\nExecStart=/bin/true\n{}", unit("derper.service.d/derpring.conf"))),
    ];
    let paths = written.map(|(name, text)| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    });
    let run = Command::new(TOOL).arg("verify").args(paths).output().unwrap();
    let text = String::from_utf8_lossy(&run.stderr);
    let about_ours: Vec<&str> = text.lines().filter(|line| line.contains("derp")).collect();
    assert!(run.status.success() && about_ours.is_empty(), "{text}");
}

on_backends!(
    systemd_passes_the_main_listener,
    sockets_are_known_by_name_or_address,
    what_cannot_be_used_is_refused_in_words,
    the_environment_of_a_parent_means_nothing,
    a_restart_refuses_nobody,
    a_reload_says_when_it_begins_and_ends,
    a_takeover_says_who_the_service_is,
);
