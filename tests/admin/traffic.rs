//! `/debug/traffic` against traffic that is known.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::*;
use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

const STREAMS: usize = 8;

fn of<'a>(round: &'a [Value], client: &Client) -> Option<&'a Value> {
    let key = format!("nodekey:{}", hex(&client.public()));
    let mut lines = round.iter().filter(|line| line["Key"] == *key);
    let line = lines.next();
    assert!(lines.next().is_none(), "expected one line a client: {round:?}");
    line
}

fn lines_tell_who_moved_how_much(ground: Ground) {
    let relay = start_on(ground, &[]);
    let (mut a, mut b, idle) = (visit(&relay).log_in(), visit(&relay).log_in(), visit(&relay).log_in());
    let mut send = |times: usize| {
        for _ in 0..times {
            a.send_to(&b.public(), &noise(1, 1000));
            b.expect(&recv_packet(&a.public(), &noise(1, 1000)));
        }
        a.expect_quiet();
        b.expect_quiet();
    };
    send(3);
    let mut stream = Stream::open(admin(&relay), "/debug/traffic");
    assert!(stream.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", stream.head);
    // What was before is nobody's news.
    assert_eq!(stream.round().unwrap(), [] as [Value; 0]);
    send(7);
    // The packets may fall into two rounds; their sums do not depend on it.
    let (mut rates, mut last) = ((0.0, 0.0), (json!(0), json!(0)));
    let begin = Instant::now();
    while last != (json!(10_000), json!(10_000)) {
        assert!(begin.elapsed() < PATIENCE, "expected 10000 bytes each way, got {last:?}");
        let round = stream.round().unwrap();
        assert!(of(&round, &idle).is_none(), "{round:?}");
        if let Some(line) = of(&round, &a) {
            assert_eq!((&line["Sent"], &line["SentRate"]), (&json!(0), &json!(0)), "{line}");
            assert_eq!(line["Address"], a.wire.socket.local_addr().unwrap().to_string());
            rates.0 += line["RecvPacketsRate"].as_f64().unwrap();
            last.0 = line["Recv"].clone();
        }
        if let Some(line) = of(&round, &b) {
            assert_eq!((&line["Recv"], &line["RecvRate"]), (&json!(0), &json!(0)), "{line}");
            rates.1 += line["SentRate"].as_f64().unwrap();
            last.1 = line["Sent"].clone();
        }
    }
    // Rounds are half a second to two, and on a busy machine more.
    assert!(rates.0 > 0.0 && rates.0 < 16.0, "{rates:?} packets a second for 7");
    assert!(rates.1 > 0.0 && rates.1 < 16_000.0, "{rates:?} bytes a second for 7000");
    let quiet = stream.round().unwrap();
    assert_eq!(quiet, [] as [Value; 0], "nothing more was sent");
}

on_workers!(lines_tell_who_moved_how_much);

#[test]
fn streams_are_few_and_come_back() {
    once("streams_are_few_and_come_back", || {
        let relay = start(&[]);
        let to = admin(&relay);
        let mut streams: Vec<Stream> = (0..STREAMS).map(|_| Stream::open(to, "/debug/traffic")).collect();
        for stream in &mut streams {
            assert!(stream.head.starts_with("HTTP/1.1 200 "), "{}", stream.head);
            assert!(stream.round().is_some());
        }
        assert_eq!(get(to, "/debug/traffic").status, 503);
        assert_eq!(get(to, "/metrics").status, 200, "other pages go on");
        streams.pop();
        comes_back(to);
        assert!(streams[0].round().is_some());
    });
}

fn comes_back(to: SocketAddr) {
    let begin = Instant::now();
    while !Stream::open(to, "/debug/traffic").head.starts_with("HTTP/1.1 200 ") {
        assert!(begin.elapsed() < PATIENCE, "a stream that ended holds its place");
        thread::sleep(Duration::from_millis(100));
    }
}
