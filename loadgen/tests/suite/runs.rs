//! Whole runs of the program against a relay that behaves, or does not.

use std::time::{Duration, Instant};

use crate::fake_relay::{FakeRelay, Fault};
use crate::run::run;

#[test]
fn a_good_relay_loses_nothing() {
    let relay = FakeRelay::start(Fault::None);
    let run = run(&relay, &["--pairs", "3", "--idle", "2", "--window", "8", "--burst", "4"]);
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert!(run.packets("sent") > 0);
    assert_eq!(run.packets("arrived"), run.packets("sent"));
    assert_eq!(run.packets("lost"), 0);
    assert_eq!(run.json["logins"]["count"], 8);
    assert!(run.stdout.contains("lost        0 (0.000 %)"), "{}", run.stdout);
    // They may be on their way when the run is over.
    let begin = Instant::now();
    while relay.pongs() < 3 && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(relay.pongs(), 3, "every receiver answers the ping of its relay");
}

#[test]
fn packets_of_every_size_pass() {
    for size in ["24", "1400", "65536"] {
        let relay = FakeRelay::start(Fault::None);
        let run = run(&relay, &["--pairs", "1", "--size", size]);
        assert_eq!(run.exit, 0, "{}", run.stderr);
        assert_eq!(run.packets("lost"), 0);
    }
}

#[test]
fn a_schedule_sends_what_it_says() {
    let relay = FakeRelay::start(Fault::None);
    let flags = ["--pairs", "3", "--rate", "2000", "--burst", "2", "--max-lateness", "1h"];
    let run = run(&relay, &flags);
    assert_eq!(run.exit, 0, "{}", run.stdout);
    assert_eq!(run.packets("sent") % 2, 0);
    assert_eq!((run.packets("lost"), run.packets("unsent")), (0, 0));
    assert!(run.json["packets"]["lateness"]["count"].as_u64() > Some(0));
}

#[test]
fn transit_is_a_part_of_latency() {
    let relay = FakeRelay::start(Fault::None);
    let load = ["--pairs", "3", "--rate", "2000", "--burst", "2", "--max-lateness", "1h"];
    for more in [&[][..], &["--transport", "websocket"], &["--request-reply", "1"]] {
        let run = run(&relay, &[&load[..], &["--transit"], more].concat());
        assert_eq!(run.exit, 0, "{}", run.stdout);
        assert!(run.stdout.contains("transit     p50"), "{}", run.stdout);
        let of = |what: &str, which: &str| run.json["packets"][what][which].as_f64().unwrap();
        assert!(of("transit", "min_us") > 0.0);
        if more.first() == Some(&"--request-reply") {
            assert!(of("transit", "count") > 0.0 && of("transit", "count") < of("latency", "count"));
            continue;
        }
        assert_eq!(of("transit", "count"), of("latency", "count"));
        for which in ["min_us", "mean_us", "p50_us", "p99_us", "max_us"] {
            assert!(of("transit", which) <= of("latency", which), "{which}: {}", run.stdout);
        }
    }
    assert!(run(&relay, &load).json["packets"]["transit"].is_null());
}

#[test]
fn a_late_generator_says_so() {
    let relay = FakeRelay::start(Fault::None);
    let run = run(&relay, &["--pairs", "1", "--rate", "1000", "--max-lateness", "0s"]);
    assert_eq!(run.exit, 3, "{}", run.stdout);
    assert_eq!(run.json["verdict"]["late"], true);
    assert!(run.stdout.contains("the generator was late"), "{}", run.stdout);
}

#[test]
fn one_wrong_byte_ends_the_run() {
    // Source, number, time, check, pattern, last byte.
    for byte in [0, 31, 32, 40, 48, 56, 100, 231] {
        let relay = FakeRelay::start(Fault::Corrupt { at: 20, byte });
        let run = run(&relay, &["--pairs", "1", "--duration", "60s"]);
        assert_eq!(run.exit, 2, "byte {byte}: {}", run.stderr);
        assert!(run.stderr.contains("wrong delivery to receiver 0"), "{}", run.stderr);
    }
    let relay = FakeRelay::start(Fault::Corrupt { at: 20, byte: 100 });
    let run = run(&relay, &["--pairs", "1", "--duration", "60s"]);
    assert!(run.stderr.contains("byte 68 of packet 20 is"), "{}", run.stderr);
}

#[test]
fn duplicates_and_reordering_end_the_run() {
    for (fault, text) in [
        (Fault::Duplicate { at: 20 }, "packet 20 came twice"),
        (Fault::Delay { at: 20 }, "packet 20 came after packet 21"),
    ] {
        let relay = FakeRelay::start(fault);
        let run = run(&relay, &["--pairs", "1", "--duration", "60s"]);
        assert_eq!(run.exit, 2, "{fault:?}: {}", run.stderr);
        assert!(run.stderr.contains(text), "{}", run.stderr);
    }
}

#[test]
fn loss_is_counted_and_does_not_stop_the_window() {
    let relay = FakeRelay::start(Fault::Lose { at: 3, every: 5 });
    // Of eight in flight one arrives that tells of the loss: nothing is given up but at the end.
    let run = run(&relay, &["--pairs", "1", "--window", "8", "--burst", "4", "--stall", "2s"]);
    assert_eq!(run.exit, 0, "{}", run.stderr);
    let (sent, lost) = (run.packets("sent"), run.packets("lost"));
    assert!(sent > 8, "the window opened again: {}", run.stdout);
    assert!(lost.abs_diff(sent / 5) <= 1, "{lost} of {sent}");
    assert_eq!(run.packets("arrived"), sent - lost);
}

#[test]
fn a_relay_that_loses_everything_does_not_stop_the_run() {
    let relay = FakeRelay::start(Fault::LoseAll);
    let run = run(&relay, &["--pairs", "2", "--warmup", "0s", "--stall", "20ms"]);
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert!(run.packets("sent") > 0);
    assert_eq!(run.packets("lost"), run.packets("sent"));
    assert_eq!(run.packets("arrived"), 0);
}

#[test]
fn a_relay_that_goes_away_or_refuses_fails_the_run() {
    let relay = FakeRelay::start(Fault::Close { at: 20 });
    let closed = run(&relay, &["--pairs", "1", "--duration", "60s"]);
    assert_eq!(closed.exit, 1, "{}", closed.stderr);
    assert!(closed.stderr.contains("sender 0 lost its connection"), "{}", closed.stderr);

    let relay = FakeRelay::start(Fault::Refuse);
    let refused = run(&relay, &["--pairs", "1"]);
    assert_eq!(refused.exit, 1);
    assert!(refused.stderr.contains("426 Upgrade Required"), "{}", refused.stderr);
}

#[test]
fn wrong_flags_are_not_taken_for_a_wrong_delivery() {
    let relay = FakeRelay::start(Fault::None);
    for flags in [&["--no-such-flag"][..], &[], &["--pairs", "1", "--size", "1"]] {
        let run = run(&relay, flags);
        assert_eq!(run.exit, 1, "{flags:?}");
        assert!(!run.stderr.is_empty());
    }
}
