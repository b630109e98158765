//! `/debug/` on the main listener, as derper has it.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::*;
use crate::relay_support::frames::*;
use crate::relay_support::process::{command, status};
use crate::relay_support::*;

/// In plain HTTP, with its key in `dir`.
fn derper(dir: &TempDir, listen: SocketAddr, env: &[(&str, &str)]) -> Relay {
    let key = dir.path().join("derper.key");
    let args = ["derper", "-a", &listen.to_string(), "-c", key.to_str().unwrap(), "-stun=false"].map(str::to_owned);
    Relay::spawn(command().args(args).envs(env.iter().copied()))
}

fn here() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[test]
fn derpers_pages_are_on_the_main_listener_and_nowhere_else() {
    once("derpers_pages_are_on_the_main_listener_and_nowhere_else", || {
        let dir = TempDir::new().unwrap();
        let mut relay = derper(&dir, here(), &[]);
        assert!(!relay.lines().iter().any(|line| line.trim().starts_with("admin ")), "{:?}", relay.lines());
        let client = visit(&relay).log_in();
        let to = relay.addr;
        for (path, content_type, part) in [
            ("/debug/", "text/html; charset=utf-8", "<th>Uptime<td>"),
            ("/debug/vars", "application/json; charset=utf-8", "\"gauge_current_connections\""),
            ("/debug/varz", "text/plain;version=0.0.4;charset=utf-8", "derp_current_connections 1"),
            ("/debug/check", "text/plain; charset=utf-8", "okay"),
        ] {
            let answer = get(to, path);
            assert_eq!((answer.status, answer.header("content-type")), (200, Some(content_type)), "{path}");
            assert!(answer.body.contains(part), "{path}: expected {part:?} in {}", answer.body);
            let policy = answer.header("content-security-policy").unwrap();
            assert!(policy.ends_with("; style-src 'self' 'unsafe-inline'"), "{path}: {policy}");
            let head = ask(to, "HEAD", path, &[], "");
            assert_eq!((head.status, &*head.body), (200, ""), "HEAD {path}");
            for header in ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-For:"] {
                let denied = ask(to, "GET", path, &[header], "");
                assert_eq!((denied.status, &*denied.body), (403, "debug access denied\n"), "{path} {header}");
            }
        }
        // Ours are on the admin listener alone.
        for path in ["/debug/clients", "/debug/log", "/debug/pprof/", "/debug/gc"] {
            assert_eq!(get(to, path).status, 404, "{path}");
        }
        assert!(get(to, "/metrics").body.contains("DERP"), "the home page");
        assert!(!get(to, "/debug/").body.contains("/debug/clients"));
        drop(client);
    });
}

#[test]
fn traffic_has_derpers_form() {
    once("traffic_has_derpers_form", || {
        let dir = TempDir::new().unwrap();
        let mut relay = derper(&dir, here(), &[]);
        let (mut a, mut b, _idle) = (visit(&relay).log_in(), visit(&relay).log_in(), visit(&relay).log_in());
        let mut send = |times: usize| {
            for _ in 0..times {
                a.send_to(&b.public(), &noise(1, 100));
                b.expect(&recv_packet(&a.public(), &noise(1, 100)));
            }
            a.expect_quiet();
            b.expect_quiet();
        };
        send(3);
        let line = |client: &Key, sent: u64, recv: u64| {
            let key = format!("nodekey:{}", hex(&client.public));
            json!({ "Sent": sent, "Recv": recv, "Key": key })
        };
        // Before the first round: how late the second one is read then makes no difference.
        let begin = Instant::now();
        let mut stream = Stream::open(relay.addr, "/debug/traffic");
        assert!(stream.head.contains("Transfer-Encoding: chunked"), "{}", stream.head);
        let by_key = |mut round: Vec<Value>| {
            round.sort_by_key(|line| line["Sent"].as_u64());
            round
        };
        let all = |bytes: u64| vec![line(&a.key, 0, bytes), line(&b.key, bytes, 0)];
        assert_eq!(by_key(stream.round().unwrap()), all(300), "everybody who ever moved data, at once");
        assert_eq!(stream.round().unwrap(), [] as [Value; 0]);
        assert!(begin.elapsed().as_secs_f64() > 1.0, "every two seconds, the first pause is half of that or more");
        let mut others: Vec<Stream> = (0..7).map(|_| Stream::open(relay.addr, "/debug/traffic")).collect();
        assert_eq!(get(relay.addr, "/debug/traffic").status, 503);
        // Nobody waits for those who look.
        let begin = Instant::now();
        relay.signal(Signal::TERM);
        assert_eq!(status(relay.wait()), 0);
        assert!(begin.elapsed() < PATIENCE / 2, "it took {:?}", begin.elapsed());
        while stream.round().is_some() {}
        while others[0].round().is_some() {}
    });
}

#[test]
fn who_may_debug_is_derpers_rule() {
    const NAME: &str = "who_may_debug_is_derpers_rule";
    once(NAME, || {
        let dir = TempDir::new().unwrap();
        let key = dir.path().join("debug.key");
        fs::write(&key, " open sesame \n").unwrap();
        let key_path = key.to_str().unwrap().to_owned();
        let with_key = [("TS_DEBUG_KEY_PATH", &*key_path)];
        let relay = derper(&dir, here(), &with_key);
        let ask_with = |method: &str, query: &str| {
            // A proxy's header takes away what the address gives.
            ask(relay.addr, method, &format!("/debug/vars?{query}"), &["X-Forwarded-For: 1.2.3.4"], "").status
        };
        assert_eq!(ask_with("GET", "debugkey=open%20sesame"), 200);
        assert_eq!(ask_with("GET", "debugkey=open+sesame&x"), 200);
        assert_eq!([ask_with("GET", "debugkey=open"), ask_with("GET", ""), ask_with("GET", "debugkey=")], [403; 3]);
        assert_eq!(ask_with("POST", "debugkey=open+sesame"), 403);
        // The key may change while the relay runs.
        fs::write(&key, "another").unwrap();
        assert_eq!([ask_with("GET", "debugkey=another"), ask_with("GET", "debugkey=open+sesame")], [200, 403]);
        fs::remove_file(&key).unwrap();
        assert_eq!(ask_with("GET", "debugkey=another"), 403);

        let Some(ip) = outside_address(NAME) else { return };
        let status = |env: &[(&str, &str)]| {
            let relay = derper(&dir, SocketAddr::new(ip, 0), env);
            get(relay.addr, "/debug/vars").status
        };
        assert_eq!(status(&[]), 403);
        assert_eq!(status(&[("TS_ALLOW_DEBUG_IP", &ip.to_string())]), 200);
        assert_eq!(status(&[("TS_ALLOW_DEBUG_IP", "2001:db8::7")]), 403);
        assert_eq!(status(&[("TS_DEBUG_TRUSTED_CIDRS", &format!("{}, {ip}/31", elsewhere(ip)))]), 200);
        assert_eq!(status(&[("TS_DEBUG_TRUSTED_CIDRS", elsewhere(ip))]), 403);
    });
}

#[test]
fn an_admin_listener_beside_it_is_asked_for_in_the_environment() {
    once("an_admin_listener_beside_it_is_asked_for_in_the_environment", || {
        let dir = TempDir::new().unwrap();
        let relay = derper(&dir, here(), &[("DERPRING_ADMIN_LISTEN", "127.0.0.1:0")]);
        assert_eq!(get(admin(&relay), "/debug/clients").status, 200);
        assert_eq!(get(relay.addr, "/debug/vars").status, 200);
    });
}

/// HTTP/1.0 has no chunks: the end of the stream is the end of the connection.
#[test]
fn an_old_client_gets_traffic_as_it_is() {
    once("an_old_client_gets_traffic_as_it_is", || {
        let dir = TempDir::new().unwrap();
        let mut relay = derper(&dir, here(), &[]);
        let mut stream = connect(relay.addr);
        stream.write_all(b"GET /debug/traffic HTTP/1.0\r\n\r\n").unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.0 200 OK");
        relay.signal(Signal::TERM);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        let body = rest.split_once("\r\n\r\n").unwrap().1;
        assert!(body.chars().all(|c| c == '\n'), "{body:?}");
        assert_eq!(status(relay.wait()), 0);
    });
}
