//! The log: another filter while it runs, and a line a minute about what was dropped.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::*;
use crate::relay_support::frames::*;
use crate::relay_support::*;

#[test]
fn the_filter_changes_while_the_relay_runs() {
    once("the_filter_changes_while_the_relay_runs", || {
        let mut relay = start(&[]);
        let to = admin(&relay);
        assert_eq!(get(to, "/debug/log").body, "info\n");
        let probe = |relay: &Relay| {
            relay.get("/derp/probe");
        };
        probe(&relay);
        drop(visit(&relay).log_in());
        relay.expect_line("peer logged in");
        relay.expect_line("peer left");
        assert!(!relay.has_said("connection ended before login"));

        let answer = ask(to, "PUT", "/debug/log", &[], "warn,derpring::edge=debug\n");
        assert_eq!((answer.status, &*answer.body), (200, "warn,derpring::edge=debug\n"));
        assert_eq!(get(to, "/debug/log").body, "warn,derpring::edge=debug\n");
        relay.expect_line("the log has another filter");
        probe(&relay);
        relay.expect_line("connection ended before login");
        let said = |relay: &mut Relay| relay.lines().iter().filter(|line| line.contains("peer logged in")).count();
        let before = said(&mut relay);
        visit(&relay).log_in().expect_quiet();
        // A line of the edge comes after it.
        probe(&relay);
        thread::sleep(Duration::from_millis(200));
        assert_eq!(said(&mut relay), before, "logins are said at info");

        for (bad, why) in [("a=b=c", "400: "), ("", "400: "), ("debgu", "is not a level"), ("\u{1}", "400: ")] {
            let answer = ask(to, "POST", "/debug/log", &[], bad);
            assert_eq!(answer.status, 400, "{bad:?}");
            assert!(answer.body.contains(why) && answer.body.contains("give error, warn, info"), "{}", answer.body);
        }
        assert_eq!(get(to, "/debug/log").body, "warn,derpring::edge=debug\n");
        assert_eq!(ask(to, "POST", "/debug/log", &[], "info").status, 200);
        visit(&relay).log_in().expect_quiet();
        let begin = Instant::now();
        while said(&mut relay) == before {
            assert!(begin.elapsed() < PATIENCE, "expected a login line");
            thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn a_minutes_drops_are_one_line() {
    once("a_minutes_drops_are_one_line", || {
        let mut relay = start(&["--log-format=json"]);
        let mut client = visit(&relay).log_in();
        for _ in 0..9 {
            client.send_to(&Key::fresh().public, b"to nobody");
        }
        client.expect_quiet();
        for _ in 0..2 {
            let mut stranger = visit(&relay).connect();
            stranger.send(b"nonsense\r\n\r\n");
            let mut answer = Vec::new();
            while stranger.wire.read(&mut answer).is_none() {}
        }
        let begin = Instant::now();
        while !relay.has_said("the last minute") {
            assert!(begin.elapsed() < Duration::from_secs(200), "expected a summary: {:?}", relay.lines());
            thread::sleep(Duration::from_millis(200));
        }
        let line = relay.expect_line("the last minute");
        let line: Value = serde_json::from_str(&line).unwrap();
        let number = |name: &str| line[name].as_u64();
        assert_eq!((number("dropped"), number("unknown_dest")), (Some(9), Some(9)), "{line}");
        assert_eq!((number("refused"), number("bad_http")), (Some(2), Some(2)), "{line}");
        assert_eq!(number("queue_head"), None, "{line}");
    });
}
