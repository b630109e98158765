//! `/bootstrap-dns`, with the system's own resolver.

use std::io::Write;
use std::time::{Duration, Instant};

use derpring::config::BootstrapDns;
use derpring::control::bootstrap_dns::{Count, Table};
use derpring::stats::CloseReason;

use super::both;
use super::edge_support::*;

#[test]
fn names_are_told_and_questions_counted() {
    both(|uring| {
        let names = BootstrapDns { names: vec!["localhost".into()], unpublished: Vec::new() };
        let table = Table::start(&names).unwrap();
        let relay = Relay::start(uring, |config| config.bootstrap_dns = table.clone());
        let ask = |query: &str| {
            let mut stream = relay.connect();
            // The second request is one too many: the answer ends the connection.
            let request = format!("GET /bootstrap-dns{query} HTTP/1.1\r\nHost: h\r\n\r\n");
            stream.write_all(request.repeat(2).as_bytes()).unwrap();
            let answer = read_to_end(&mut stream);
            assert_eq!(answer.matches("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n").count(), 1, "{answer}");
            assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
            answer.split_once("\r\n\r\n").unwrap().1.to_owned()
        };
        let (began, mut asked) = (Instant::now(), 1);
        let body = loop {
            let body = ask("");
            if !body.is_empty() {
                break body;
            }
            asked += 1;
            assert!(began.elapsed() < PATIENCE, "nobody has looked");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(body.starts_with("{\n\t\"localhost\": [\n\t\t\"") && body.ends_with("\"\n\t]\n}"), "{body}");
        assert_eq!(ask("?q=localhost"), body);
        assert_eq!(ask("?q=other.example"), body);
        let counted = |what: Count| relay.sum(|stats| stats.bootstrap_dns[what as usize].get());
        assert_eq!(counted(Count::Requests), asked + 2);
        assert_eq!((counted(Count::PublishedHits), counted(Count::UnpublishedMisses)), (1, 1));
        assert_eq!(table.asked(), 2);
        relay.wait_closed(CloseReason::HttpDone, asked + 2);
        relay.handle.join();
    });
}
