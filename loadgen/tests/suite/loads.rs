//! Every kind of load against a relay that behaves, and what stands beside the measured packets.

use std::net::{SocketAddr, TcpListener};

use rustix::net::{AddressFamily, SocketType};

use crate::fake_relay::{FakeRelay, Fault};
use crate::run::run;

#[test]
fn every_shape_delivers_all() {
    for (flags, connections) in [
        (&["--pairs", "3"][..], 6),
        (&["--fan-in", "4"], 5),
        (&["--fan-out", "4", "--groups", "2"], 10),
        (&["--all-to-all", "4"], 4),
        (&["--star", "3"], 4),
        (&["--request-reply", "2"], 4),
        (&["--request-reply", "2", "--rate", "500", "--max-lateness", "1h"], 4),
        (&["--pairs", "4", "--threads", "2"], 8),
        (&["--pairs", "2", "--sizes", "imix"], 4),
    ] {
        let relay = FakeRelay::start(Fault::None);
        let run = run(&relay, flags);
        assert_eq!(run.exit, 0, "{flags:?}: {}{}", run.stdout, run.stderr);
        assert_eq!(run.json["logins"]["count"], connections, "{flags:?}");
        assert_eq!(relay.logins(), connections, "{flags:?}");
        assert!(run.packets("sent") > 0, "{flags:?}");
        assert_eq!((run.packets("lost"), run.packets("arrived")), (0, run.packets("sent")), "{flags:?}");
        assert!(run.json["packets"]["latency"]["count"].as_u64() > Some(0), "{flags:?}");
    }
}

#[test]
fn a_request_and_its_reply_are_two_packets_and_one_latency() {
    let relay = FakeRelay::start(Fault::None);
    let run = run(&relay, &["--request-reply", "1", "--warmup", "0s", "--rate", "200", "--max-lateness", "1h"]);
    assert_eq!(run.exit, 0, "{}", run.stderr);
    let latencies = run.json["packets"]["latency"]["count"].as_u64().unwrap();
    assert!(latencies > 0);
    // Whenever the request left and its reply came.
    assert_eq!((run.packets("sent"), run.packets("arrived")), (2 * latencies, 2 * latencies), "{}", run.stdout);
}

#[test]
fn one_wrong_byte_ends_every_shape() {
    for shape in ["--fan-in", "--fan-out", "--all-to-all", "--star", "--request-reply", "--bulk"] {
        let relay = FakeRelay::start(Fault::Corrupt { at: 20, byte: 100 });
        let run = run(&relay, &[shape, "2", "--duration", "60s"]);
        assert_eq!(run.exit, 2, "{shape}: {}", run.stderr);
        assert!(run.stderr.contains("wrong delivery to "), "{}", run.stderr);
    }
}

#[test]
fn a_packet_for_another_is_found_out() {
    let relay = FakeRelay::start(Fault::Misdeliver { at: 20 });
    let run = run(&relay, &["--fan-out", "3", "--duration", "60s"]);
    assert_eq!(run.exit, 2, "{}", run.stderr);
    assert!(run.stderr.contains("came to a connection that it was not sent to"), "{}", run.stderr);
}

#[test]
fn loads_beside_the_measured_one_are_reported_apart() {
    let relay = FakeRelay::start(Fault::None);
    let flags = ["--pairs", "1", "--rate", "200", "--max-lateness", "1h", "--churn", "40", "--bulk", "1"];
    let more = ["--slow", "1", "--disco", "100", "--duration", "2s"];
    let run = run(&relay, &[&flags[..], &more].concat());
    assert_eq!(run.exit, 0, "{}", run.stderr);
    let number = |object: &str, name: &str| run.json[object][name].as_u64().unwrap();
    assert_eq!(number("churn", "done"), number("churn", "started"));
    assert!(number("churn", "done") > 0 && relay.logins() > 6);
    assert_eq!(run.json["churn"]["time"]["count"].as_u64().unwrap(), number("churn", "done"));
    assert!(number("bulk", "delivered") > 0);
    assert_eq!(number("bulk", "lost"), 0);
    assert!(number("slow", "sent") > 0);
    assert_eq!((number("disco", "lost"), number("disco", "arrived")), (0, number("disco", "sent")));
    // The measured packets are the schedule's, and nobody else's.
    assert!(run.packets("sent").abs_diff(400) < 200, "{}", run.stdout);
    assert_eq!(run.packets("lost"), 0);
}

#[test]
fn a_receiver_that_never_reads_is_flooded() {
    // It drops what the receiver does not take, and so takes whatever the sender has.
    let relay = FakeRelay::start(Fault::LoseAll);
    let run = run(&relay, &["--stalled", "1", "--size", "1400"]);
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert!(run.json["packets"].is_null());
    // More than a few writes.
    assert!(run.json["stalled"]["bytes"].as_u64() > Some(1_000_000), "{}", run.stdout);
}

#[test]
fn failed_logins_are_counted_with_their_reason() {
    let relay = FakeRelay::start(Fault::Refuse);
    let run = run(&relay, &["--churn", "50"]);
    assert_eq!(run.exit, 0, "{}", run.stderr);
    let churn = &run.json["churn"];
    assert!(churn["failed"].as_u64() > Some(0));
    assert_eq!((&churn["failed"], &churn["done"]), (&churn["started"], &0.into()));
    assert!(churn["first_failure"].as_str().unwrap().contains("426"), "{churn}");
}

#[test]
fn the_first_packet_is_waited_for() {
    // Bound and not listening: connections are refused, and nobody else gets the port.
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr().unwrap();
    let starting = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        rustix::net::listen(&listener, 128).unwrap();
        FakeRelay::start_on(listener, Fault::None)
    });
    let run = crate::run::run_at(addr, &["--first-packet"]);
    let relay = starting.join().unwrap();
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert!(run.json["first_packet_ms"].as_f64() > Some(1.0), "{}", run.json);
    assert_eq!(relay.logins(), 2);
}

#[test]
fn the_distribution_and_the_series_tell_the_same_as_the_counts() {
    let relay = FakeRelay::start(Fault::None);
    let run = run(&relay, &["--pairs", "2", "--warmup", "0s"]);
    let packets = &run.json["packets"];
    let latency = derpring_loadgen::measure::hdr::decode(packets["latency_hdr"].as_str().unwrap()).unwrap();
    assert_eq!(latency.len(), run.packets("arrived"));
    assert_eq!(latency.max() as f64 / 1e3, packets["latency"]["max_us"].as_f64().unwrap());
    let sent: u64 = packets["series"].as_array().unwrap().iter().map(|slot| slot["sent"].as_u64().unwrap()).sum();
    assert_eq!(sent, run.packets("sent"));
}

#[test]
fn a_search_ends_with_the_largest_rate_that_is_carried() {
    let relay = FakeRelay::start(Fault::LoseAll);
    let flags = ["--pairs", "1", "--find-max", "--find-step", "200ms", "--rate", "200", "--max-lateness", "1h"];
    let lossy = run(&relay, &[&flags[..], &["--stall", "500ms"]].concat());
    assert_eq!(lossy.exit, 1, "{}", lossy.stdout);
    assert!(lossy.stderr.contains("packets per second are not carried"), "{}", lossy.stderr);

    let relay = FakeRelay::start(Fault::LoseAbove { per_second: 2_000 });
    let found = run(&relay, &[&flags[..], &["--stall", "500ms", "--max-loss", "0.01"]].concat());
    assert_eq!(found.exit, 0, "{}{}", found.stdout, found.stderr);
    let max = &found.json["find_max"];
    assert_eq!(max["limited_by"], "relay");
    let rate = max["rate"].as_u64().unwrap();
    assert!((200..=2_600).contains(&rate), "{max}");
    assert_eq!(max["tries"][0]["rate"], 200);
}

/// A process with one thread that does nothing but work: what is measured is known.
#[test]
fn the_relay_is_measured_by_thread() {
    let relay = FakeRelay::start(Fault::None);
    let mut busy = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
    let run = run(&relay, &["--pairs", "1", "--relay-pid", &busy.id().to_string(), "--duration", "3s"]);
    busy.kill().unwrap();
    busy.wait().unwrap();
    assert_eq!(run.exit, 0, "{}", run.stderr);
    let threads = run.json["relay"]["threads"].as_array().unwrap();
    assert_eq!(threads.iter().map(|thread| &thread["name"]).collect::<Vec<_>>(), ["sh"]);
    let (whole, thread) = (run.json["relay"]["cpu_s"].as_f64().unwrap(), threads[0]["cpu_s"].as_f64().unwrap());
    // Each is rounded to steps of the kernel's clock, 10 ms at most, at either end; they are read one after the other,
    // and the reader may have to wait in between.
    assert!(whole > 0.0 && (whole - thread).abs() < 0.3, "{threads:?} {whole}");
    assert!(run.json["own"].get("threads").is_none());
}

#[test]
fn threads_are_listed_by_what_they_took() {
    // The relay is in this process.
    let relay = FakeRelay::start(Fault::None);
    let pid = std::process::id().to_string();
    let run = run(&relay, &["--pairs", "1", "--relay-pid", &pid, "--duration", "1s"]);
    assert_eq!(run.exit, 0, "{}", run.stderr);
    let threads = run.json["relay"]["threads"].as_array().unwrap();
    let times: Vec<f64> = threads.iter().map(|thread| thread["cpu_s"].as_f64().unwrap()).collect();
    assert!(times.len() > 1 && times[0] > 0.0 && times.is_sorted_by(|a, b| a >= b), "{threads:?}");
    assert!(threads.iter().all(|thread| !thread["name"].as_str().unwrap().is_empty()));
}

#[test]
fn websockets_carry_the_same() {
    for size in ["24", "1400", "65536"] {
        let relay = FakeRelay::start(Fault::None);
        let run = run(&relay, &["--transport", "websocket", "--pairs", "2", "--size", size]);
        assert_eq!(run.exit, 0, "{}", run.stderr);
        assert!(run.packets("sent") > 0 && run.packets("lost") == 0);
        assert!(relay.masked() > 4, "messages came, and the relay has checked their masks");
    }
}

#[test]
fn pairs_stay_on_one_of_several_relays() {
    let (one, other) = (FakeRelay::start(Fault::None), FakeRelay::start(Fault::None));
    let url = format!("http://{}", other.addr);
    let run = run(&one, &["--url", &url, "--pairs", "4"]);
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert_eq!((one.logins(), other.logins()), (4, 4));
    assert_eq!(run.packets("lost"), 0);
}

#[test]
fn a_picture_is_drawn() {
    let relay = FakeRelay::start(Fault::None);
    let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("plot-{}.svg", std::process::id()));
    let run = run(&relay, &["--pairs", "1", "--plot", path.to_str().unwrap()]);
    assert_eq!(run.exit, 0, "{}", run.stderr);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
}
