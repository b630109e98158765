//! A packet in steady state allocates nothing: whoever sends more cannot make the relay's memory grow, and no packet
//! waits for an allocator.
//!
//! Each scenario runs on the simulated network until every buffer has found its size. From then on the allocator
//! counts what one thread asks of it while a worker has its turn; what clients do is not counted. A failure shows the
//! stacks of the first few.
//!
//! What C code asks of its own allocator is not seen. AWS-LC does that when a key is set up, not per record.

#![allow(unsafe_code)]

#[path = "../benches/bed/mod.rs"]
mod bed;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::time::Duration;

use bed::tls::Handshaker;
use bed::{Bed, Peer, packet};
use derpring::proto::frame::PACKET_HEAD;
use derpring::tls::Transport;
use derpring::worker::egress::Bounds;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Idle,
    Counting,
    /// Inside of the counter, which allocates too.
    Noting,
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Idle) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// The first few places that allocated.
    static STACKS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

const STACKS_MAX: usize = 6;

// SAFETY: every call goes to the system's allocator as it came; counting allocates only with counting switched off.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn note(size: usize) {
    if MODE.get() != Mode::Counting {
        return;
    }
    MODE.set(Mode::Noting);
    COUNT.set(COUNT.get() + 1);
    STACKS.with_borrow_mut(|stacks| {
        if stacks.len() < STACKS_MAX {
            let stack = ours(&Backtrace::force_capture().to_string());
            if !stacks.iter().any(|known| known.ends_with(&stack)) {
                stacks.push(format!("{size} bytes at\n{stack}"));
            }
        }
    });
    MODE.set(Mode::Counting);
}

/// Where the innermost functions of the relay on a stack are.
fn ours(stack: &str) -> String {
    const DEPTH: usize = 6;
    let mut lines = stack.lines();
    let mut out = String::new();
    while let Some(function) = lines.find(|line| line.contains("derpring::")) {
        if out.lines().count() == DEPTH {
            break;
        }
        out += &format!("  {} {}\n", function.trim(), lines.next().unwrap_or_default().trim());
    }
    out
}

/// Counts what `f` allocates on this thread.
fn counted(f: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    MODE.set(Mode::Counting);
    f();
    MODE.set(Mode::Idle);
    COUNT.get() - before
}

/// What flows, and how.
#[derive(Clone, Copy)]
struct Scenario {
    tls: bool,
    websocket: bool,
    /// Sender and receiver are not on the same worker.
    across: bool,
    /// Payload bytes of the packets; they take turns.
    lens: &'static [usize],
    /// Packets that a client writes at once.
    burst: usize,
    /// The relay gets the client's bytes in pieces of this size, one per turn.
    piece: usize,
    /// Bytes that the network holds on the way to the receiver.
    room: usize,
    /// The second worker has a turn only after so many of the first one's.
    lag: usize,
    /// Turns of both at the end of a round, in which nothing new comes.
    rest: usize,
    pairs: usize,
    bounds: Bounds,
    chunks_max: usize,
    /// What must have been dropped, as a share of what came: something or nothing.
    drops: bool,
}

const PLENTY: Bounds = Bounds { packets: 512, bytes: 4 << 20, packets_min: 32 };

const USUAL: Scenario = Scenario {
    tls: false,
    websocket: false,
    across: false,
    lens: &[1400],
    burst: 32,
    piece: usize::MAX,
    room: 64 << 20,
    lag: 1,
    rest: 4,
    pairs: 4,
    bounds: PLENTY,
    chunks_max: usize::MAX,
    drops: false,
};

impl Scenario {
    /// Plain and TLS, on one worker and across two.
    fn everywhere(self) {
        for tls in [false, true] {
            for across in [false, true] {
                Self { tls, across, ..self }.run();
            }
        }
    }

    fn run(self) {
        // Queues that overflow take some rounds to reach their longest.
        const WARM_UP: u64 = 100;
        const ROUNDS: u64 = 25;
        const PACKETS: u64 = 4_000;
        let mut bed = Bed::new(2, self.bounds, self.chunks_max);
        bed.websockets = self.websocket;
        let mut flows = self.flows(&mut bed);
        // The first look at each session's round-trip time; the next ones come after the end of this test.
        bed.advance(Duration::from_secs(1));
        let mut rounds = 0;
        while rounds < WARM_UP || bed.counts().0 < PACKETS {
            self.round(&mut bed, &mut flows);
            rounds += 1;
        }
        STACKS.take();
        let before = bed.counts();
        let mut allocations = 0;
        let mut rounds = 0;
        while rounds < ROUNDS || bed.counts().0 < before.0 + PACKETS {
            allocations += self.round(&mut bed, &mut flows);
            rounds += 1;
        }
        let (came, _, dropped) = bed.counts();
        let (came, dropped) = (came - before.0, dropped - before.2);
        assert_eq!(dropped > 0, self.drops, "{dropped} of {came} packets were dropped");
        assert_eq!(
            allocations,
            0,
            "TLS {}, WebSocket {}, across workers {}: allocations in {rounds} rounds of {came} packets; first:\n{}",
            self.tls,
            self.websocket,
            self.across,
            STACKS.take().join("\n")
        );
    }

    fn flows(self, bed: &mut Bed) -> Vec<Flow> {
        let tls = self.tls.then(Handshaker::aes128);
        let transports = || tls.as_ref().map_or((Transport::Plain, Transport::Plain), Handshaker::connect);
        (0..self.pairs)
            .map(|_| {
                let from = bed.login(0, usize::MAX, transports());
                let to = bed.login(usize::from(self.across), self.room, transports());
                let packets: Vec<_> = self.lens.iter().map(|len| packet(&to.key, *len)).collect();
                let frames: Vec<u8> = packets.iter().cycle().take(self.burst).flatten().copied().collect();
                Flow { from, to, frames, wire: Vec::new() }
            })
            .collect()
    }

    /// Every sender writes a burst, and the workers take it in. Returns what their turns allocated.
    fn round(self, bed: &mut Bed, flows: &mut [Flow]) -> u64 {
        for flow in &mut *flows {
            flow.wire.clear();
            flow.from.seal(&flow.frames, &mut flow.wire);
        }
        let longest = flows.iter().map(|f| f.wire.len()).max().unwrap_or(0);
        let mut allocations = 0;
        let mut at = 0;
        let mut turns = 0;
        while at < longest {
            for flow in &*flows {
                let rest = flow.wire.get(at..).unwrap_or_default();
                flow.from.end.write(&rest[..rest.len().min(self.piece)]);
            }
            at = at.saturating_add(self.piece);
            turns += 1;
            allocations += turn(bed, turns % self.lag == 0);
        }
        for _ in 0..self.rest {
            allocations += turn(bed, true);
        }
        for flow in flows {
            flow.check();
        }
        allocations
    }
}

/// A turn of the first worker and, if `both`, of the second. Returns what they allocated.
fn turn(bed: &mut Bed, both: bool) -> u64 {
    bed.advance(Duration::from_micros(10));
    let turns = if both { 2 } else { 1 };
    counted(|| {
        for worker in &mut bed.workers[..turns] {
            worker.turn().expect("the simulated network never breaks");
        }
    })
}

/// A sender and its receiver.
struct Flow {
    from: Peer,
    to: Peer,
    frames: Vec<u8>,
    wire: Vec<u8>,
}

impl Flow {
    /// What has come is from the sender, and whole packets at that.
    fn check(&mut self) {
        let key = self.from.key;
        let plain = self.to.read();
        let mut at = 0;
        while let Some(head) = plain.get(at..at + PACKET_HEAD) {
            let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            assert_eq!((head[0], &head[5..]), (0x05, &key.0[..]), "a packet under its sender's key");
            if plain.len() < at + 5 + len {
                return;
            }
            at += 5 + len;
        }
        self.to.consume(at);
    }
}

#[test]
fn packets_of_the_usual_size() {
    USUAL.everywhere();
}

#[test]
fn small_packets() {
    Scenario { lens: &[0, 100, 32, 61], burst: 128, ..USUAL }.everywhere();
}

#[test]
fn packets_of_64_kib() {
    Scenario { lens: &[65536], burst: 3, ..USUAL }.everywhere();
}

/// Messages are cut where the client likes, which is inside of frames.
#[test]
fn packets_in_messages() {
    Scenario { websocket: true, ..USUAL }.everywhere();
    Scenario { websocket: true, lens: &[65536, 100], burst: 6, piece: 3001, ..USUAL }.everywhere();
}

/// More in one turn than a session may send in one.
#[test]
fn bursts_over_several_turns() {
    Scenario { lens: &[65536], burst: 10, ..USUAL }.everywhere();
}

/// Frames over two receives, records over two receives, and frames over two records, cut at other places each time.
#[test]
fn frames_and_records_that_straddle() {
    Scenario { lens: &[1400, 20, 0, 300], burst: 64, piece: 1009, ..USUAL }.everywhere();
    Scenario { lens: &[65536, 17000, 3], burst: 9, piece: 20011, ..USUAL }.everywhere();
}

/// More sessions than buffers are kept for them are in the middle of a frame at the same time, and then none is.
#[test]
fn many_sessions_that_straddle() {
    Scenario { lens: &[1400], burst: 2, piece: 900, pairs: 200, ..USUAL }.everywhere();
}

/// The receiver's socket takes less than comes: its queue drops its oldest packets.
#[test]
fn a_queue_that_overflows() {
    let bounds = Bounds { packets: 40, bytes: 1 << 20, packets_min: 32 };
    Scenario { bounds, room: 20_000, drops: true, ..USUAL }.everywhere();
    let bounds = Bounds { bytes: 300_000, ..bounds };
    let piece = 200_000;
    Scenario { lens: &[65536, 1400], bounds, burst: 80, room: 100_000, piece, drops: true, ..USUAL }.everywhere();
}

/// All queues together are over the worker's budget.
#[test]
fn a_budget_that_is_used_up() {
    Scenario { lens: &[1400], burst: 200, room: 20_000, pairs: 8, chunks_max: 64, drops: true, ..USUAL }.everywhere();
}

/// The other worker does not keep up, and what waits for it is dropped on this side.
#[test]
fn an_outbox_that_overflows() {
    Scenario { across: true, burst: 512, lag: 64, piece: 16_384, rest: 0, drops: true, ..USUAL }.run();
}
