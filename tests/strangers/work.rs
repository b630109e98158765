//! Two clients that do honest work while something else goes on, and lose nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::relay_support::frames::*;
use crate::relay_support::*;

pub struct Pair {
    a: Client,
    b: Client,
    round: u64,
}

impl Pair {
    pub fn new(relay: &Relay) -> Self {
        Self { a: visit(relay).log_in(), b: visit(relay).log_in(), round: 0 }
    }

    /// A burst there and a burst back. Whatever else came, or came in another order, would be seen here.
    pub fn exchange(&mut self) {
        const BURST: u64 = 8;
        self.round += 1;
        let round = self.round;
        let data = |at: u64| noise(round * BURST + at, (round * 131 + at * 977) as usize % 1500);
        one_way(&mut self.a, &mut self.b, BURST, data);
        one_way(&mut self.b, &mut self.a, BURST, data);
    }

    pub fn rounds(&mut self, count: u32) {
        for _ in 0..count {
            self.exchange();
        }
    }

    /// Works as long as `meanwhile` takes, and at least a little.
    pub fn during<T: Send>(&mut self, meanwhile: impl FnOnce() -> T + Send) -> T {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                // Set by a panic, too.
                let _done = SetOnDrop(&done);
                meanwhile()
            });
            self.rounds(20);
            while !done.load(Ordering::Acquire) {
                self.exchange();
            }
            other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Nothing but what was sent has come.
    pub fn expect_quiet(&mut self) {
        self.a.expect_quiet();
        self.b.expect_quiet();
    }
}

fn one_way(from: &mut Client, to: &mut Client, burst: u64, data: impl Fn(u64) -> Vec<u8>) {
    from.send(&(0..burst).flat_map(|at| send_packet(&to.public(), &data(at))).collect::<Vec<u8>>());
    for at in 0..burst {
        to.expect(&recv_packet(&from.public(), &data(at)));
    }
}

pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
