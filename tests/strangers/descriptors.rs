//! The relay runs out of descriptors, and gets some back.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, prlimit};

use super::work::Pair;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

fn limit(relay: &Relay, current: u64) -> Rlimit {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    prlimit(Some(relay.pid()), Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap()
}

/// The smallest number that no descriptor of the relay has: with this limit it gets no other.
fn lowest_free(relay: &Relay) -> u64 {
    let names = fs::read_dir(format!("/proc/{}/fd", relay.pid().as_raw_nonzero())).unwrap();
    let open: Vec<u64> = names.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    (0..).find(|number| !open.contains(number)).unwrap()
}

fn without_descriptors_who_is_in_goes_on(ground: Ground) {
    let mut relay = Relay::start_tls(ground, &[]);
    let mut pair = Pair::new(&relay);
    pair.rounds(5);
    let before = limit(&relay, lowest_free(&relay));
    // They wait in the listen queue; the first one makes the relay notice.
    let addr = relay.addr;
    let waiting: Vec<TcpStream> = (0..10).map(|_| wire::connect(addr, None).unwrap()).collect();
    pair.during(|| relay.expect_line("no descriptors left"));
    pair.rounds(50);
    for stream in &waiting {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let error = std::io::Read::read(&mut &*stream, &mut [0]).unwrap_err();
        assert!(wire::is_timeout(&error), "expected it to wait in the queue, got {error}");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    limit(&relay, before.current.unwrap_or(1 << 20));
    pair.during(|| {
        for stream in waiting {
            let visit = visit(&relay);
            visit.log_in_on(visit.over(stream)).expect_quiet();
        }
        visit(&relay).log_in().expect_quiet();
    });
    pair.expect_quiet();
}

on_workers!(without_descriptors_who_is_in_goes_on);
