//! Whoever asks a page again and again, and compares each answer with the one before.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::pages::{Numbers, Read};

/// What is near the largest number is one that has gone below zero.
const ABSURD: f64 = 1e18;

/// Asks until it is told to end, and then once more; returns how often.
pub fn watch(name: &str, read: Read, to: SocketAddr, end: &AtomicBool) -> u32 {
    let mut before = read(to);
    let mut asked = 1;
    while !end.load(Ordering::Acquire) {
        let now = read(to);
        never_falls(name, &before, &now);
        is_sound(name, &now);
        before = now;
        asked += 1;
    }
    asked
}

fn never_falls(name: &str, before: &Numbers, now: &Numbers) {
    for (of, was) in &before.counters {
        let is = now.counters.get(of).unwrap_or_else(|| panic!("{name}: {of} was there and is gone"));
        assert!(is >= was, "{name}: {of} went back from {was} to {is}");
    }
    let more = now.counters.len() - before.counters.len();
    assert_eq!(more, 0, "{name}: names have appeared that were not there from the start");
    assert!(now.gauges.keys().eq(before.gauges.keys()), "{name}: gauges have come or gone");
}

fn is_sound(name: &str, now: &Numbers) {
    for (of, value) in now.counters.iter().chain(&now.gauges) {
        assert!(*value >= 0.0 && *value < ABSURD, "{name}: {of} is {value}");
    }
}
