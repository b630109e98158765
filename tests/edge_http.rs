//! Plain HTTP on the main listener: pages, probers, nonsense.

mod edge_support;

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use derpring::config::{DebugAccess, HomePage};
use derpring::edge::debug::{Desk, Page, Question};
use derpring::stats::CloseReason;
use edge_support::*;

fn both(test: impl Fn(bool)) {
    test(true);
    test(false);
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

/// Makes pages on a thread of its own, as the admin thread does.
fn desk() -> Desk {
    let (desk, mut questions) = tokio::sync::mpsc::channel::<Question>(1);
    std::thread::spawn(move || {
        while let Some(question) = questions.blocking_recv() {
            let page = match &*question.page {
                "vars" => Page::Whole { status: 200, content_type: "application/json", body: "{\"it\": 1}".into() },
                "traffic" => {
                    let (sender, parts) = tokio::sync::mpsc::channel(1);
                    std::thread::spawn(move || {
                        (0..3).try_for_each(|n| sender.blocking_send(format!("{n}\n\n").into()))
                    });
                    Page::Stream { content_type: "text/plain", parts }
                }
                // The question is dropped.
                "silent" => continue,
                _ => Page::Denied,
            };
            let _ = question.reply.send(page);
        }
    });
    desk
}

#[test]
fn debug_pages_come_from_elsewhere() {
    both(|uring| {
        let relay = Relay::start(uring, |config| {
            config.live.site.debug = Some(DebugAccess::default());
            config.desk = Some(desk());
        });
        let mut stream = relay.connect();
        for path in ["/debug/traffic", "/debug/vars", "/debug/silent", "/debug/other"] {
            stream.write_all(get(path).as_bytes()).unwrap();
        }
        stream.write_all(b"GET /debug/traffic HTTP/1.0\r\n\r\n").unwrap();
        let text = read_to_end(&mut stream);
        let answers: Vec<&str> = text.split("HTTP/1.").skip(1).collect();
        assert_eq!(answers.len(), 5, "{text}");
        assert!(answers[0].starts_with("1 200 OK\r\n") && answers[0].contains("Transfer-Encoding: chunked"), "{text}");
        assert!(answers[0].ends_with("\r\n\r\n3\r\n0\n\n\r\n3\r\n1\n\n\r\n3\r\n2\n\n\r\n0\r\n\r\n"), "{text}");
        assert!(answers[1].ends_with("\r\n\r\n{\"it\": 1}"), "{text}");
        assert!(answers[2].starts_with("1 503 ") && answers[3].starts_with("1 403 "), "{text}");
        assert!(answers[4].starts_with("0 200 OK") && answers[4].ends_with("\r\n\r\n0\n\n1\n\n2\n\n"), "{text}");
        drop(stream);
        relay.wait_closed(CloseReason::HttpDone, 1);
        relay.handle.join();
    });
}

#[test]
fn pages_on_a_connection_that_stays() {
    both(|uring| {
        let relay = Relay::start(uring, |config| {
            config.live.site.debug = Some(DebugAccess::default());
            config.desk = Some(desk());
            config.live.site.home = HomePage::Blank;
        });
        let mut stream = relay.connect();
        for _ in 0..3 {
            stream.write_all(get("/derp/latency-check").as_bytes()).unwrap();
            expect(&mut stream, b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n");
        }
        let post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\nConnection: close\r\n\r\n";
        stream.write_all(get("/debug/vars").as_bytes()).unwrap();
        stream.write_all(post.as_bytes()).unwrap();
        let rest = read_to_end(&mut stream);
        assert!(rest.contains("\r\n\r\n{\"it\": 1}HTTP/1.1 200 OK\r\n"), "{rest}");
        assert!(rest.contains("Connection: close\r\n"));
        drop(stream);
        relay.wait_closed(CloseReason::HttpDone, 1);
        relay.handle.join();
    });
}

#[test]
fn bodies_are_skipped_and_the_next_request_found() {
    both(|uring| {
        let relay = Relay::start(uring, |_| {});
        let mut stream = relay.connect();
        let body = "x".repeat(60000);
        stream
            .write_all(
                format!("POST /derp/probe HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n{body}").as_bytes(),
            )
            .unwrap();
        stream.write_all(get("/derp/probe").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answers = read_to_end(&mut stream);
        assert!(
            answers.starts_with("HTTP/1.1 405 ") && answers.contains("bogus probe method\nHTTP/1.1 200 OK\r\n"),
            "{answers}"
        );
        relay.wait_closed(CloseReason::HttpDone, 1);
        relay.handle.join();
    });
}

#[test]
fn idle_prober_is_let_go_without_blame() {
    both(|uring| {
        let relay = Relay::start(uring, |config| config.login_deadline = Duration::from_secs(1));
        let mut stream = relay.connect();
        let started = Instant::now();
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(400));
            stream.write_all(get("/derp/probe").as_bytes()).unwrap();
            expect(&mut stream, b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n");
        }
        assert_eq!(read_to_end(&mut stream), "");
        // The deadline counts from the last request.
        assert!(started.elapsed() > Duration::from_millis(2550), "{:?}", started.elapsed());
        relay.wait_closed(CloseReason::HttpDone, 1);
        relay.handle.join();
    });
}

#[test]
fn requests_on_one_connection_are_bounded() {
    both(|uring| {
        let relay = Relay::start(uring, |_| {});
        let mut stream = relay.connect();
        let mut many = stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || many.write_all(get("/derp/probe").repeat(150).as_bytes()));
        let answers = read_to_end(&mut stream);
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), derpring::limits::HTTP_REQUESTS_MAX);
        assert_eq!(answers.matches("Connection: close").count(), 1, "the last answer says so");
        let _ = writer.join();
        relay.handle.join();
    });
}

#[test]
fn nonsense_is_answered_and_counted() {
    let pki = Pki::new();
    both(|uring| {
        let relay = Relay::start(uring, |_| {});
        let long = format!("GET /{}", "a".repeat(20000));
        for (n, (request, answer)) in [
            ("\u{1}\u{2}\u{3}\r\n\r\n", "HTTP/1.1 400 "),
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "),
            (&long, "HTTP/1.1 431 "),
        ]
        .into_iter()
        .enumerate()
        {
            let mut stream = relay.connect();
            stream.write_all(request.as_bytes()).unwrap();
            assert!(read_to_end(&mut stream).starts_with(answer), "{request:.20}");
            drop(stream);
            relay.wait_closed(CloseReason::BadHttp, n as u64 + 1);
        }
        relay.handle.join();

        let relay = Relay::start(uring, |config| config.tls = Some(pki.server()));
        let mut stream = relay.connect();
        stream.write_all(get("/").as_bytes()).unwrap();
        let answer = read_to_end(&mut stream);
        assert_eq!(answer, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
        let mut stream = relay.connect();
        stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").unwrap();
        assert!(read_to_end(&mut stream).starts_with('\u{15}'), "an alert");
        relay.wait_closed(CloseReason::Handshake, 2);
        assert_eq!(relay.sum(|s| s.handshakes_failed.get()), 2);
        relay.handle.join();
    });
}
