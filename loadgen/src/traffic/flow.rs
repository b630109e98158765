//! The packets of one pair: what is in flight, what arrived, what is lost.

use super::Violation;

/// How many of the newest packets are remembered one by one, to tell a duplicate from a late one.
const MEMORY: u64 = 64;

/// Both ends of one pair, kept together because they live in one process: the window is credited
/// when the receiver gets a packet, without a message through the relay.
///
/// A relay keeps the order of a pair, so a packet that arrives settles every one before it: they
/// arrived, or they are lost.
#[derive(Debug, Default)]
pub struct Flow {
    /// Number of the next packet to send.
    next: u64,
    /// Every packet below arrived or was given up.
    settled: u64,
    /// One above the highest packet that arrived.
    expected: u64,
    /// Bit i: packet `expected - 1 - i` arrived.
    recent: u64,
    /// Packets with these numbers are measured.
    from: u64,
    to: u64,
    /// How many of them arrived.
    arrived: u64,
}

impl Flow {
    /// The number of the packet that is sent now.
    pub fn send(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub fn in_flight(&self) -> u64 {
        self.next - self.settled
    }

    /// True if the packet is one of the measured.
    pub fn arrive(&mut self, seq: u64) -> Result<bool, Violation> {
        if seq >= self.next {
            return Err(Violation::NeverSent { seq });
        }
        if seq < self.expected {
            return Err(self.backwards(seq));
        }
        let step = seq - self.expected + 1;
        self.recent = if step < MEMORY { self.recent << step } else { 0 } | 1;
        self.expected = seq + 1;
        // A packet that was given up and arrives after all has been credited already.
        self.settled = self.settled.max(self.expected);
        let measured = (self.from..self.to).contains(&seq);
        self.arrived += u64::from(measured);
        Ok(measured)
    }

    /// Gives the packets in flight up, and says how many that were.
    pub fn give_up(&mut self) -> u64 {
        let given_up = self.in_flight();
        self.settled = self.next;
        given_up
    }

    /// Every packet sent has arrived or has been overtaken by one that arrived.
    pub fn is_drained(&self) -> bool {
        self.expected == self.next
    }

    /// Packets from here on are measured, and none of before.
    pub fn start_measuring(&mut self) {
        self.from = self.next;
        self.to = u64::MAX;
        self.arrived = 0;
    }

    /// Packets are measured from one on that [`Self::measure_behind`] names.
    pub fn await_measuring(&mut self) {
        self.from = u64::MAX;
        self.to = u64::MAX;
        self.arrived = 0;
    }

    /// Where that is waited for: packets are measured behind the next `unsent`.
    pub fn measure_behind(&mut self, unsent: u64) {
        if self.from == u64::MAX {
            self.from = self.next + unsent;
        }
    }

    pub fn stop_measuring(&mut self) {
        self.to = self.next;
    }

    /// Measured packets sent and arrived; only after `stop_measuring`.
    pub fn measured(&self) -> (u64, u64) {
        (self.to.saturating_sub(self.from), self.arrived)
    }

    #[cold]
    fn backwards(&self, seq: u64) -> Violation {
        let age = self.expected - 1 - seq;
        if age < MEMORY && self.recent & (1 << age) == 0 {
            Violation::OutOfOrder { seq, expected: self.expected }
        } else {
            // Older than the memory: late or twice, wrong either way.
            Violation::Duplicate { seq }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(count: u64) -> Flow {
        let mut flow = Flow::default();
        for seq in 0..count {
            assert_eq!(flow.send(), seq);
        }
        flow
    }

    #[test]
    fn arrivals_credit_the_window() {
        let mut flow = sent(8);
        assert_eq!(flow.in_flight(), 8);
        for seq in 0..8 {
            flow.arrive(seq).unwrap();
            assert_eq!(flow.in_flight(), 7 - seq);
        }
        assert!(flow.is_drained());
    }

    #[test]
    fn a_gap_credits_the_lost_with_the_arrived() {
        let mut flow = sent(8);
        flow.arrive(0).unwrap();
        flow.arrive(5).unwrap();
        assert_eq!(flow.in_flight(), 2);
        assert!(!flow.is_drained());
    }

    #[test]
    fn given_up_packets_are_credited_once() {
        let mut flow = sent(4);
        assert_eq!(flow.give_up(), 4);
        assert_eq!(flow.in_flight(), 0);
        assert_eq!((flow.send(), flow.send()), (4, 5));
        flow.arrive(2).unwrap();
        assert_eq!(flow.in_flight(), 2);
        flow.arrive(4).unwrap();
        assert_eq!(flow.in_flight(), 1);
    }

    #[test]
    fn loss_is_counted_by_number_not_by_time() {
        let mut flow = sent(3);
        flow.start_measuring();
        for _ in 0..4 {
            flow.send();
        }
        flow.stop_measuring();
        flow.send();
        let measured: Vec<bool> = [1, 2, 3, 6, 7].into_iter().map(|seq| flow.arrive(seq).unwrap()).collect();
        assert_eq!(measured, [false, false, true, true, false]);
        assert_eq!(flow.measured(), (4, 2));
    }

    #[test]
    fn measuring_may_be_waited_for() {
        let mut flow = sent(3);
        flow.await_measuring();
        assert!(!flow.arrive(2).unwrap());
        flow.measure_behind(1);
        flow.measure_behind(0);
        assert_eq!((flow.send(), flow.send()), (3, 4));
        assert!(!flow.arrive(3).unwrap() && flow.arrive(4).unwrap());
        flow.stop_measuring();
        assert_eq!(flow.measured(), (1, 1));
        // None came that was to be measured.
        let mut flow = sent(3);
        flow.await_measuring();
        flow.stop_measuring();
        assert_eq!(flow.measured(), (0, 0));
    }

    #[test]
    fn what_no_relay_may_do() {
        let mut flow = sent(200);
        flow.arrive(0).unwrap();
        flow.arrive(2).unwrap();
        assert_eq!(flow.arrive(2), Err(Violation::Duplicate { seq: 2 }));
        assert_eq!(flow.arrive(0), Err(Violation::Duplicate { seq: 0 }));
        let late = Violation::OutOfOrder { seq: 1, expected: 3 };
        assert_eq!(flow.arrive(1), Err(late));
        assert_eq!(flow.arrive(200), Err(Violation::NeverSent { seq: 200 }));
        flow.arrive(66).unwrap();
        assert_eq!(flow.arrive(2), Err(Violation::Duplicate { seq: 2 }));
        flow.arrive(199).unwrap();
        assert!(matches!(flow.arrive(198), Err(Violation::OutOfOrder { .. })));
    }
}
