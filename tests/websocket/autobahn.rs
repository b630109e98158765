//! Autobahn's own fuzzing client. It is for Python 2.7, which most machines have no more, so `DERPRING_AUTOBAHN_PYTHON`
//! has to name one that has the package; without it the Go suite asks the same.

use std::path::Path;
use std::process::Command;

use crate::relay_support::ground::{leave_out, on_backends};
use crate::relay_support::*;

/// Cases that want no echo: pings, reserved bits and opcodes, fragments out of order, closing.
const CASES: usize = 60;

fn autobahn_has_no_complaint(ground: Ground) {
    let Ok(python) = std::env::var("DERPRING_AUTOBAHN_PYTHON") else {
        let reason = "DERPRING_AUTOBAHN_PYTHON names no Python 2.7 with autobahntestsuite";
        return leave_out("websocket autobahn_has_no_complaint", reason, "DERPRING_REQUIRE_AUTOBAHN");
    };
    let relay = Relay::start(ground, &[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/websocket/fuzzing_client.py");
    let mut judge = Command::new(python);
    judge.args(["-B", "-W", "ignore"]).arg(script).arg(format!("ws://{}/derp", relay.addr));
    let judge = judge.output().expect("Python can be started");
    let says = String::from_utf8_lossy(&judge.stdout);
    assert!(judge.status.success(), "{}\n{says}\n{}", judge.status, String::from_utf8_lossy(&judge.stderr));
    assert!(says.ends_with(&format!("{CASES} cases, 0 of them bad\n")), "{says}");
}

on_backends!(autobahn_has_no_complaint);
