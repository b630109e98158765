//! One run of the program, and what it left.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use crate::fake_relay::FakeRelay;

pub struct Run {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
    pub json: Value,
}

pub fn run(relay: &FakeRelay, flags: &[&str]) -> Run {
    run_at(relay.addr, flags)
}

pub fn run_at(addr: SocketAddr, flags: &[&str]) -> Run {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let number = RUNS.fetch_add(1, Ordering::SeqCst);
    let json = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("run-{}-{number}.json", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_derpring-loadgen"))
        .args(["--url", &format!("http://{}/derp", addr)])
        .args(["--warmup", "50ms", "--duration", "300ms", "--size", "200", "--stall", "30s"])
        .arg("--json")
        .arg(&json)
        .args(flags)
        .output()
        .unwrap();
    let text = std::fs::read_to_string(&json).unwrap_or_default();
    let _ = std::fs::remove_file(&json);
    Run {
        exit: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        json: serde_json::from_str(&text).unwrap_or_default(),
    }
}

impl Run {
    pub fn packets(&self, name: &str) -> u64 {
        self.json["packets"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {}{}", self.stdout, self.stderr))
    }
}
