//! io_uring forbidden, as container runtimes do: the relay says so and works without, or refuses in one line.

use std::collections::BTreeMap;
use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::relay_support::frames::*;
use crate::relay_support::process::{command, status};
use crate::relay_support::*;

const ARGS: &str = "DERPRING_TEST_SANDBOX_ARGS";
const CALLS: &str = "DERPRING_TEST_SANDBOX_CALLS";
const ERRNO: &str = "DERPRING_TEST_SANDBOX_ERRNO";
const SEPARATOR: char = '\n';

const IO_URING: [i64; 3] = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Not a test: this program becomes the relay here, once the system calls that its environment names are forbidden.
/// The filter stays across the change.
#[test]
fn inside() {
    let (Ok(args), Ok(calls), Ok(errno)) = (env::var(ARGS), env::var(CALLS), env::var(ERRNO)) else { return };
    let rules: BTreeMap<i64, Vec<_>> = calls.split(SEPARATOR).map(|call| (call.parse().unwrap(), vec![])).collect();
    let refuse = SeccompAction::Errno(errno.parse().unwrap());
    let arch = TargetArch::try_from(env::consts::ARCH).unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
    let error = command().args(args.split(SEPARATOR)).exec();
    panic!("expected to become the relay: {error}");
}

/// The relay, for which `calls` fail with `errno`.
fn sandboxed(calls: &[i64], errno: Errno, args: &[&str]) -> Command {
    let test = format!("{}::inside", module_path!().split_once("::").unwrap().1);
    let calls: Vec<String> = calls.iter().map(i64::to_string).collect();
    let separator = SEPARATOR.to_string();
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", &test, "--nocapture"])
        .env(ARGS, [&["serve", "--dev", "--listen=127.0.0.1:0"], args].concat().join(&separator))
        .env(CALLS, calls.join(&separator))
        .env(ERRNO, errno.raw_os_error().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

const WAYS: [(&str, &[i64], Errno, &str); 4] = [
    ("a container's profile", &IO_URING, Errno::PERM, "seccomp profile or kernel.io_uring_disabled forbids it"),
    ("another profile", &IO_URING, Errno::ACCESS, "seccomp profile or kernel.io_uring_disabled forbids it"),
    ("a kernel without it", &IO_URING, Errno::NOSYS, "Linux 6.1 or later is needed"),
    ("a profile with a gap", &[libc::SYS_io_uring_register], Errno::PERM, "allow io_uring_setup"),
];

#[test]
fn without_io_uring_it_falls_back_and_says_why() {
    for (what, calls, errno, remedy) in WAYS {
        let args = ["--cert-mode=self-signed", "--workers=2"];
        let relay = Relay::spawn(&mut sandboxed(calls, errno, &args));
        let backend = relay.value("backend");
        assert!(backend.starts_with("epoll: ") && backend.contains(remedy), "{what}: {backend:?}");
        for mode in [Mode::Tls12, Mode::Tls13] {
            let (mut a, mut b) = (visit(&relay).mode(mode).log_in(), visit(&relay).mode(mode).log_in());
            for size in [0, 1400, MAX_PACKET] {
                a.send_to(&b.public(), &noise(1, size));
                b.expect(&recv_packet(&a.public(), &noise(1, size)));
                b.send_to(&a.public(), &noise(2, size));
                a.expect(&recv_packet(&b.public(), &noise(2, size)));
            }
        }
    }
}

#[test]
fn who_insists_on_io_uring_gets_one_line() {
    for (what, calls, errno, remedy) in WAYS {
        let run = sandboxed(calls, errno, &["--backend=uring"]).output().unwrap();
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(status(run.status), 1, "{what}: {text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1, "{what}: expected one line, got {text}");
        let wanted = "derpring: --backend uring: io_uring does not work here: ";
        assert!(lines[0].starts_with(wanted) && lines[0].contains(remedy), "{what}: {text}");
    }
}
