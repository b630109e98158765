//! The admin pages on a unix socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::http::*;
use crate::relay_support::process::{command, flags, status};
use crate::relay_support::*;

#[test]
fn a_socket_is_there_while_the_relay_is() {
    once("a_socket_is_there_while_the_relay_is", || {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("admin.sock");
        let listen = format!("--admin-listen=unix:{}", path.display());
        let start = || Relay::spawn(command().args(flags(GROUND)).arg(&listen));

        let mut relay = start();
        assert_eq!(relay.value("admin"), format!("unix:{}", path.display()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        for page in ["/metrics", "/debug/clients", "/readyz", "/debug/log"] {
            assert_eq!(ask_unix(&path, page).status, 200, "{page}");
        }

        // Another relay does not take it away.
        let run = command().args(flags(GROUND)).arg(&listen).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(status(run.status), 1, "{text}");
        assert!(text.lines().last().unwrap().contains("somebody listens there, another relay perhaps"), "{text}");
        assert_eq!(ask_unix(&path, "/readyz").status, 200);

        relay.signal(Signal::TERM);
        assert_eq!(status(relay.wait()), 0);
        assert!(!path.exists(), "removed at the end");

        // One that was killed leaves it, and the next one replaces it.
        let mut relay = start();
        relay.signal(Signal::KILL);
        assert_eq!(status(relay.wait()), 137);
        assert!(path.exists());
        let relay = start();
        assert_eq!(ask_unix(&path, "/readyz").status, 200);
        drop(relay);

        // What is no socket is somebody's.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        let run = command().args(flags(GROUND)).arg(&listen).stdin(Stdio::null()).output().unwrap();
        assert_eq!(status(run.status), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    });
}

/// Not a relay of ours, but somebody answers there.
#[test]
fn a_socket_that_somebody_else_listens_on_stays() {
    once("a_socket_that_somebody_else_listens_on_stays", || {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("theirs.sock");
        let _theirs = UnixListener::bind(&path).unwrap();
        let listen = format!("--admin-listen=unix:{}", path.display());
        let run = command().args(flags(GROUND)).arg(&listen).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(status(run.status), 1, "{text}");
        assert!(path.exists());
    });
}
