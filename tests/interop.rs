//! Runs the Go suite of `tests/interop` against Tailscale's derper, which tells whether the suite is right, and against
//! this relay with both backends and with its sessions on one worker and on several.
//!
//! The suite needs the `go` command and, the first time, its modules. Without `go` these tests say so and pass, unless
//! `DERPRING_REQUIRE_GO=1`; without io_uring the same goes for the uring ones and `DERPRING_REQUIRE_URING=1`; without
//! Node, npm or Chromium those of the suite that need them are left out, unless `DERPRING_REQUIRE_TOOLS=1`.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use io_uring::{IoUring, Probe, opcode};

/// What the suite may take in all. It needs a tenth of it on an idle machine.
const LIMIT: Duration = Duration::from_secs(360);
/// What the suite allows itself, so that a hang is reported with the stacks of its tests rather than by a kill.
const LIMIT_INSIDE: Duration = Duration::from_secs(330);

#[test]
fn reference_derper() {
    let Some(tools) = tools("reference_derper") else { return };
    run("reference_derper", tools, |suite| {
        suite.env("INTEROP_FLAVOUR", "derper").env("INTEROP_RELAY", &tools.derper);
    });
}

#[test]
fn uring_1() {
    derpring("uring_1", "uring", 1);
}

#[test]
fn uring_3() {
    derpring("uring_3", "uring", 3);
}

#[test]
fn epoll_1() {
    derpring("epoll_1", "epoll", 1);
}

#[test]
fn epoll_3() {
    derpring("epoll_3", "epoll", 3);
}

fn derpring(name: &str, backend: &str, workers: usize) {
    if backend == "uring" && !uring_available() {
        leave_out(name, "io_uring is not available here", "DERPRING_REQUIRE_URING");
        return;
    }
    let Some(tools) = tools(name) else { return };
    run(name, tools, |suite| {
        suite
            .env("INTEROP_FLAVOUR", "derpring")
            .env("INTEROP_RELAY", env!("CARGO_BIN_EXE_derpring"))
            .env("INTEROP_BACKEND", backend)
            .env("INTEROP_WORKERS", workers.to_string());
    });
}

/// Runs the suite once. Its output is shown when it fails; of a success only what it had to leave out.
fn run(name: &str, tools: &Tools, configure: impl FnOnce(&mut Command)) {
    let log_path = scratch(&format!("{name}.log"));
    let log = fs::File::create(&log_path).expect("the log file can be made");
    let mut suite = Command::new(&tools.suite);
    suite
        .current_dir(sources())
        .arg(format!("-test.timeout={}s", LIMIT_INSIDE.as_secs()))
        .env("INTEROP_DERPER", &tools.derper)
        .env("INTEROP_CACHE", env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor can be duplicated"))
        .stderr(log);
    configure(&mut suite);

    let begin = Instant::now();
    let mut child = suite.spawn().expect("the suite can be started");
    let verdict = loop {
        match child.try_wait().expect("the suite can be waited for") {
            Some(status) if status.success() => break None,
            Some(status) => break Some(format!("the suite ended with {status}")),
            None if begin.elapsed() > LIMIT => {
                // The relays that it started die with it.
                child.kill().expect("the suite can be killed");
                child.wait().expect("the suite can be waited for");
                break Some(format!("the suite was still running after {LIMIT:?}"));
            }
            None => thread::sleep(Duration::from_millis(50)),
        }
    };
    let output = String::from_utf8_lossy(&fs::read(&log_path).expect("the log can be read")).into_owned();
    fs::remove_file(&log_path).expect("the log can be removed");
    if let Some(verdict) = verdict {
        panic!("{name}: {verdict}; its output:\n{output}");
    }
    for line in output.lines().filter(|line| line.starts_with("LEFT OUT")) {
        say(&format!("{name}: {line}"));
    }
}

struct Tools {
    suite: PathBuf,
    derper: PathBuf,
}

/// Builds the suite and derper, once for all tests, or says that `name` is left out because there is no `go`.
fn tools(name: &str) -> Option<&'static Tools> {
    static TOOLS: OnceLock<Option<Tools>> = OnceLock::new();
    let tools = TOOLS.get_or_init(|| {
        if let Err(error) = Command::new("go").arg("version").output()
            && error.kind() == io::ErrorKind::NotFound
        {
            return None;
        }
        Some(Tools {
            // With the tag Tailscale's client can speak WebSocket outside of browsers.
            suite: go("interop.test", &["test", "-c", "-tags", "ts_debug_websockets"], "."),
            derper: go("derper", &["build"], "tailscale.com/cmd/derper"),
        })
    });
    if tools.is_none() {
        leave_out(name, "there is no go command", "DERPRING_REQUIRE_GO");
    }
    tools.as_ref()
}

/// Builds one program. It is put in place only when complete, as another test run may be using the one that is there.
fn go(program: &str, verb: &[&str], package: &str) -> PathBuf {
    let unfinished = scratch(program);
    let output = Command::new("go")
        .current_dir(sources())
        .args(verb)
        .arg("-o")
        .arg(&unfinished)
        .arg(package)
        .output()
        .expect("go can be started");
    assert!(
        output.status.success(),
        "building {package} of tests/interop with go: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let finished = Path::new(env!("CARGO_TARGET_TMPDIR")).join(program);
    fs::rename(&unfinished, &finished).expect("a program can be renamed");
    finished
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

/// A file of this process alone, though the folder is every test run's.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{}", std::process::id()))
}

/// The relay needs multishot receive and buffer rings. The kernel that brought zero-copy send has both, and unlike them
/// it shows in the list of operations.
fn uring_available() -> bool {
    let Ok(ring) = IoUring::new(8) else { return false };
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).is_ok() && probe.is_supported(opcode::SendZc::CODE)
}

/// A test that cannot run passes, but never silently, and not where it is required.
fn leave_out(name: &str, reason: &str, required_by: &str) {
    assert!(env::var(required_by).as_deref() != Ok("1"), "{name}: {reason}, and {required_by}=1");
    say(&format!("LEFT OUT: tests/interop.rs {name}: {reason}"));
}

/// Writes past the test harness, which swallows what passing tests print.
fn say(line: &str) {
    // Nothing is lost that matters if nobody listens.
    let _ = writeln!(io::stderr().lock(), "{line}");
}
