//! Who is answered.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use crate::http::*;
use crate::relay_support::process::{command, flags};
use crate::relay_support::*;

/// On an address that is not loopback, which peers then have, too.
fn outside(ip: std::net::IpAddr, args: &[&str]) -> (Relay, SocketAddr) {
    let listen = format!("--admin-listen={}", SocketAddr::new(ip, 0));
    let relay = Relay::spawn(command().args(flags(GROUND)).arg(listen).args(args));
    let to = admin(&relay);
    (relay, to)
}

#[test]
fn from_elsewhere_only_who_is_allowed_or_has_the_token() {
    const NAME: &str = "from_elsewhere_only_who_is_allowed_or_has_the_token";
    once(NAME, || {
        let Some(ip) = outside_address(NAME) else { return };
        let (mut relay, to) = outside(ip, &[]);
        relay.expect_line("answers 403 to everybody but this machine: --admin-allow or --admin-token-file opens it");
        for page in ["/metrics", "/debug/", "/healthz", "/nothing"] {
            let answer = get(to, page);
            assert_eq!(answer.status, 403, "{page}");
            assert_eq!(answer.body.lines().count(), 1, "{}", answer.body);
            assert!(answer.body.contains(&format!("--admin-allow {ip} lets it in")), "{}", answer.body);
        }

        let (_relay, to) = outside(ip, &[&format!("--admin-allow={ip}/32")]);
        assert_eq!(get(to, "/metrics").status, 200);
        assert_eq!(get(to, "/debug/clients").status, 200);
        assert_eq!(get(to, "/debug/log").status, 403, "who may look may not change");
        assert_eq!(ask(to, "PUT", "/debug/log", &[], "debug").status, 403);
        let (_relay, to) = outside(ip, &[&format!("--admin-allow={}", elsewhere(ip))]);
        assert_eq!(get(to, "/metrics").status, 403);

        let dir = TempDir::new().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "s3cret\n").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let (mut relay, to) = outside(ip, &[&format!("--admin-token-file={}", file.display())]);
        relay.expect_line("every user of this machine can read it");
        let with = |value: &str, page: &str| ask(to, "GET", page, &[&format!("Authorization: {value}")], "").status;
        assert_eq!(with("Bearer s3cret", "/metrics"), 200);
        assert_eq!(with("Bearer s3cret", "/debug/log"), 200);
        assert_eq!(with("Bearer s3cre", "/metrics"), 403);
        assert_eq!(with("Bearer s3cret2", "/metrics"), 403);
        assert_eq!(with("Basic s3cret", "/metrics"), 403);
        assert_eq!(get(to, "/metrics").status, 403);
    });
}

/// A name that somebody owns can be made to lead to 127.0.0.1, and a browser then thinks that we are their site.
#[test]
fn web_pages_of_others_are_not_answered() {
    once("web_pages_of_others_are_not_answered", || {
        let relay = start(&[]);
        let to = admin(&relay);
        for (host, status) in [
            ("localhost:2112", 200),
            ("127.0.0.1:2112", 200),
            ("[::1]:2112", 200),
            ("rebound.example:2112", 403),
            ("localhost.rebound.example", 403),
        ] {
            let answer = ask(to, "GET", "/debug/vars", &[&format!("Host: {host}")], "");
            assert_eq!(answer.status, status, "{host}: {}", answer.body);
        }
        let cross = ["Host: 127.0.0.1:2112", "Origin: http://rebound.example"];
        assert_eq!(ask(to, "POST", "/debug/log", &cross, "trace").status, 403);
        assert_eq!(get(to, "/debug/log").body, "info\n");
        let same = ["Host: 127.0.0.1:2112", "Origin: http://127.0.0.1:2112"];
        assert_eq!(ask(to, "POST", "/debug/log", &same, "warn").status, 200);
    });
}
