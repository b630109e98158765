//! Receivers that read slowly, or not at all: what they get is right, and nobody waits for them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::work::{Pair, SetOnDrop};
use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

/// A packet that says who it is for, which it is, and holds nothing that another one holds.
fn packet(to: &Public, number: u64) -> Vec<u8> {
    let size = number * 7919 % 2000;
    let seed = number ^ u64::from_be_bytes(to[..8].try_into().unwrap());
    [&to[..8], &number.to_be_bytes(), &noise(seed, size as usize)].concat()
}

/// Checks what has come to one receiver: each packet whole, for it, and behind its predecessors of the same source.
struct Ledger {
    me: Public,
    last: HashMap<Public, u64>,
    packets: u64,
}

impl Ledger {
    fn new(me: Public) -> Self {
        Self { me, last: HashMap::new(), packets: 0 }
    }

    /// Source and number.
    fn enter(&mut self, frame: &Frame) -> (Public, u64) {
        let (source, data) = frame.packet();
        let number = u64::from_be_bytes(data[8..16].try_into().unwrap());
        assert_eq!(data, packet(&self.me, number), "packet {number} is not what was sent");
        let before = self.last.insert(source, number);
        assert!(before < Some(number), "packet {number} came behind {before:?}");
        self.packets += 1;
        (source, number)
    }
}

/// The flood is many times what queues hold. Two sources, so that packets of both must be told apart.
fn a_slow_receiver_gets_whole_frames_in_order(ground: Ground) {
    const PACKETS: u64 = 15_000;
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let mut receiver = visit(relay).mode(mode).receive_buffer(16 * 1024).log_in();
        let mut bystander = visit(relay).mode(mode).log_in();
        let mut senders = [visit(relay).mode(mode).log_in(), visit(relay).mode(mode).log_in()];
        let sources = senders.each_ref().map(Client::public);
        let to = receiver.public();
        let done = AtomicBool::new(false);
        let ledger = thread::scope(|scope| {
            for sender in &mut senders {
                let done = &done;
                scope.spawn(move || {
                    for batch in 0..PACKETS / 100 {
                        let numbers = batch * 100..(batch + 1) * 100;
                        sender.pump(&numbers.flat_map(|n| send_packet(&to, &packet(&to, n))).collect::<Vec<u8>>());
                    }
                    // Any of the flood may have been dropped for the other source's; one of these will not be.
                    for number in PACKETS.. {
                        if done.load(Ordering::Acquire) {
                            break;
                        }
                        sender.send_to(&to, &packet(&to, number));
                        thread::sleep(Duration::from_millis(10));
                    }
                });
            }
            let _done = SetOnDrop(&done);
            let mut ledger = Ledger::new(to);
            while !sources.iter().all(|source| ledger.last.get(source) >= Some(&PACKETS)) {
                let (source, _) = ledger.enter(&receiver.frame());
                assert!(sources.contains(&source), "a packet of {}", hex(&source));
                if ledger.packets.is_multiple_of(50) {
                    // This is its slowness, not a wait for something.
                    thread::sleep(Duration::from_millis(1));
                }
            }
            ledger
        });
        eprintln!("{mode:?}: {} packets of {} arrived", ledger.packets, 2 * PACKETS);
        bystander.expect_quiet();
        for sender in &mut senders {
            sender.expect_quiet();
        }
    }
}

fn who_does_not_read_holds_nobody_up(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in [Mode::Plain, Mode::Tls13] {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let mut receiver = visit(relay).mode(mode).log_in();
        let mut sender = visit(relay).mode(mode).log_in();
        let mut pair = Pair::new(relay);
        let to = receiver.public();
        let done = AtomicBool::new(false);
        let sent = thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let mut sent = 0;
                while !done.load(Ordering::Acquire) {
                    let burst = (0..50).flat_map(|n| send_packet(&to, &packet(&to, sent + n)));
                    sender.send(&burst.collect::<Vec<u8>>());
                    sent += 50;
                }
                sent
            });
            let _done = SetOnDrop(&done);
            pair.rounds(500);
            done.store(true, Ordering::Release);
            flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        assert!(sent > 0);
        let mut ledger = Ledger::new(to);
        // What its kernel and the relay have kept. The relay may have ended it meanwhile, for taking nothing.
        let mut by_relay = false;
        loop {
            match receiver.next() {
                Event::Frame(frame) if frame.kind == RECV_PACKET => {
                    let (source, number) = ledger.enter(&frame);
                    assert_eq!(source, sender.public());
                    assert!(number < sent);
                    if number == sent - 1 {
                        break;
                    }
                }
                Event::Frame(frame) => panic!("expected packets, got {frame:?}"),
                Event::End(..) => {
                    by_relay = true;
                    break;
                }
            }
        }
        eprintln!("{mode:?}: {} of {sent} packets; ended by the relay: {by_relay}", ledger.packets);
        pair.expect_quiet();
    }
}

/// Taking nothing at all for the write timeout ends a connection, and only that one.
fn who_takes_nothing_is_ended(ground: Ground) {
    let relay = Relay::start_tls(ground, &["--queue-packets=65536", "--queue-bytes=64MiB"]);
    let mut receiver = visit(&relay).receive_buffer(16 * 1024).log_in();
    let mut sender = visit(&relay).log_in();
    let mut pair = Pair::new(&relay);
    let to = receiver.public();
    let mut number = 0;
    // PeerGone tells the sender that the other has ended, once it has heard of it.
    receiver.send_to(&sender.public(), b"I am here");
    sender.expect(&recv_packet(&to, b"I am here"));
    // 2000 packets: what one worker keeps for another whatever happens is fewer than 2048, less than 4 MiB.
    for _ in 0..40 {
        sender.send(&(0..50).flat_map(|n| send_packet(&to, &packet(&to, number + n))).collect::<Vec<u8>>());
        number += 50;
    }
    pair.during(|| sender.expect(&peer_gone(&to, DISCONNECTED)));
    let mut ledger = Ledger::new(to);
    while let Event::Frame(frame) = receiver.next() {
        assert_eq!(ledger.enter(&frame).1 + 1, ledger.packets, "nothing had to be dropped");
    }
    assert!(ledger.packets < number, "expected the end before all of {number} packets were taken");
    pair.expect_quiet();
}

on_workers!(a_slow_receiver_gets_whole_frames_in_order, who_does_not_read_holds_nobody_up, who_takes_nothing_is_ended);
