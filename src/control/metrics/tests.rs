use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use super::*;

fn sources(workers: usize) -> Sources {
    Sources {
        workers: (0..workers).map(|_| Arc::default()).collect(),
        edges: (0..2).map(|_| Arc::default()).collect(),
        stun: Arc::default(),
        inboxes: Arc::new(|worker| worker),
        bootstrap_dns: crate::control::bootstrap_dns::Table::empty(),
        limits: Limits {
            max_clients: 1000,
            half_open: 4096,
            inbox_chains: 1024,
            queue_memory: 64 << 20,
            acquaintances: 1 << 20,
            descriptors: 4096,
        },
        build: Build { version: "1.2.3", backend: "io_uring", edge_backend: "epoll", tls: true },
        reloads: Arc::default(),
        started: SystemTime::now(),
        memory_at_start: 1 << 20,
    }
}

fn value(body: &str, series: &str) -> f64 {
    let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is in\n{body}")).parse().unwrap()
}

/// Who asks while others wait shares their pass; who asks afterwards gets a new one.
#[test]
fn one_pass_answers_all_who_were_waiting() {
    let sources = sources(1);
    let cells = sources.workers.clone();
    let collector = Collector::new(sources);
    let asked = |name: &str| value(&collector.prometheus(Format::Text), name);
    assert_eq!(asked("coder_derp_server_got_ping_total"), 0.0);
    cells[0].got_ping.add(1);
    assert_eq!(asked("coder_derp_server_got_ping_total"), 1.0);

    let held = collector.last.lock().unwrap();
    let passes = held.answers_below;
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..8).map(|_| scope.spawn(|| collector.pass())).collect();
        while collector.questions.load(Ordering::Relaxed) < passes + 8 {
            thread::sleep(Duration::from_millis(1));
        }
        drop(held);
        let passes: Vec<_> = waiting.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(passes.iter().all(|pass| Arc::ptr_eq(pass, &passes[0])), "eight who waited, one pass");
        assert!(!Arc::ptr_eq(&collector.pass(), &passes[0]), "who asks later is told what is now");
    });
}

/// The library's clock spins when it is first used: neither a start nor derper's pages may wait for it.
#[test]
fn the_exporter_is_made_by_the_first_scrape() {
    let collector = Collector::new(sources(2));
    let made = || collector.last.lock().unwrap().exporter.is_some();
    collector.totals();
    collector.vars_json();
    collector.varz();
    assert!(!made());
    let body = collector.prometheus(Format::Text);
    assert!(made());
    assert_eq!(value(&body, "coder_derp_server_got_ping_total"), 0.0);
}

/// While a worker counts as fast as it can, everything that is read adds up and nothing goes back.
#[test]
fn nothing_goes_back_and_parts_add_up_while_workers_count() {
    let sources = sources(2);
    let cells = sources.workers.clone();
    let collector = Collector::new(sources);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for cells in cells.iter() {
            scope.spawn(|| {
                let mut packet = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    packet += 1;
                    let disco = packet.is_multiple_of(3);
                    cells.packets_received[usize::from(disco)].add(1);
                    cells.drop_packets(DropReason::ALL[(packet % 7) as usize], disco, 1, 100);
                    cells.queue_time.record(packet % 1000);
                    cells.write_frames.record(packet % 200);
                }
            });
        }
        let mut before = [0.0; 6];
        for _ in 0..200 {
            let body = collector.prometheus(Format::Text);
            let coder = |name: &str| value(&body, &format!("coder_derp_server_{name}"));
            let received = coder("packets_received_total");
            let kinds =
                ["disco", "other"].map(|kind| coder(&format!("packets_received_kind_total{{kind=\"{kind}\"}}")));
            assert_eq!(received, kinds[0] + kinds[1]);
            let dropped = coder("packets_dropped_total");
            let reasons =
                DropReason::ALL.iter().map(|r| coder(&format!("packets_dropped_reason_total{{reason=\"{r}\"}}")));
            assert_eq!(dropped, reasons.sum::<f64>());
            let types = ["disco", "other"].map(|kind| coder(&format!("packets_dropped_type_total{{type=\"{kind}\"}}")));
            assert_eq!(dropped, types[0] + types[1]);
            let samples = value(&body, "derpring_queue_time_seconds_count");
            assert_eq!(value(&body, "derpring_queue_time_seconds_bucket{le=\"+Inf\"}"), samples);
            let now = [received, kinds[0], kinds[1], dropped, types[0], samples];
            assert!(before.iter().zip(&now).all(|(before, now)| before <= now), "{before:?} then {now:?}");
            before = now;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(before[0] > 0.0, "somebody counted meanwhile");
    });
}

/// Lines of the exporter that the table does not know would be lost.
#[test]
fn every_number_of_the_table_is_printed_once() {
    let collector = Collector::new(sources(3));
    let body = collector.prometheus(Format::Text);
    let pass = collector.pass();
    for series in table::all() {
        let sets = series.label_sets(&pass);
        let mut numbers = 0;
        series.numbers(&pass, |_| numbers += 1);
        if series.kind != series::Kind::Histogram {
            assert_eq!(sets.len(), numbers, "{}", series.name);
        }
        let of_series = |line: &&str| line.split(['{', ' ']).next() == Some(series.name);
        assert_eq!(body.lines().filter(of_series).count(), numbers, "{}", series.name);
        for word in ["HELP", "TYPE"] {
            let comment = format!("# {word} {} ", series.name);
            assert_eq!(body.lines().filter(|line| line.starts_with(&comment)).count(), 1, "{comment}");
        }
    }
    assert!(body.lines().all(|line| !line.is_empty()), "no line of the exporter is missing");
    // In the same places every time, whatever the order of the exporter's maps.
    let heads = |body: &str| body.lines().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>();
    assert_eq!(heads(&Collector::new(sources(3)).prometheus(Format::Text)), heads(&body));
}

#[test]
fn totals_are_those_of_the_scrape() {
    let sources = sources(2);
    for (at, cells) in sources.workers.iter().enumerate() {
        cells.connections.set(10 + at as u64);
        cells.packets_received[at].add(5);
        cells.packets_sent.add(3);
        cells.drop_packets(DropReason::QueueHead, at == 1, 2, 200);
    }
    let totals = Collector::new(sources).totals();
    assert_eq!((totals.connections, totals.packets_received, totals.packets_sent), (21, 10, 6));
    let dropped: u64 = totals.packets_dropped.iter().sum();
    assert_eq!((dropped, totals.packets_dropped[DropReason::QueueHead as usize]), (4, 4));
}
