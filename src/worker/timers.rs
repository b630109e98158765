//! Deadlines of sessions: a wheel of buckets. Keepalives, samples and write timeouts may fire one tick late, never
//! early, and cost nothing per packet.

use crate::driver::Nanos;

/// Precision of every deadline.
const TICK: Nanos = 25_000_000;
/// 12.8 seconds around. What is further away is looked at once per round.
const BUCKETS: u64 = 512;

/// A session that wants to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub slot: u32,
    pub generation: u32,
}

#[derive(Debug)]
pub struct Wheel {
    buckets: Vec<Vec<Alarm>>,
    /// One bit for each bucket with something in it: a worker asks for the next deadline at every turn.
    used: [u64; (BUCKETS / 64) as usize],
    /// The next tick that has not been looked at.
    tick: u64,
}

impl Wheel {
    pub fn new(now: Nanos) -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), used: Default::default(), tick: now / TICK }
    }

    /// Fires at `at` or up to one tick later, at the latest after one round: then ask again.
    pub fn set(&mut self, alarm: Alarm, at: Nanos) {
        let tick = at.div_ceil(TICK).clamp(self.tick, self.tick + BUCKETS - 1);
        let at = tick % BUCKETS;
        self.buckets[at as usize].push(alarm);
        self.used[(at / 64) as usize] |= 1 << (at % 64);
    }

    /// Moves everything that is due to `due`.
    pub fn expire(&mut self, now: Nanos, due: &mut Vec<Alarm>) {
        let last = now / TICK;
        if last < self.tick {
            return;
        }
        let end = (last + 1).min(self.tick + BUCKETS);
        for tick in self.tick..end {
            let at = tick % BUCKETS;
            due.append(&mut self.buckets[at as usize]);
            self.used[(at / 64) as usize] &= !(1 << (at % 64));
        }
        self.tick = last + 1;
    }

    /// When [`Self::expire`] must be called next.
    pub fn next(&self) -> Option<Nanos> {
        let first = self.tick % BUCKETS;
        let words = self.used.len() as u64;
        // The word that `first` is in comes twice: its upper part at the beginning, its lower part one round later.
        for step in 0..=words {
            let word = (first / 64 + step) % words;
            let mut bits = self.used[word as usize];
            if step == 0 {
                bits &= u64::MAX << (first % 64);
            } else if step == words {
                bits &= !(u64::MAX << (first % 64));
            }
            if bits != 0 {
                let at = word * 64 + u64::from(bits.trailing_zeros());
                return Some((self.tick + (at + BUCKETS - first) % BUCKETS) * TICK);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_fires_early_and_nothing_is_lost() {
        let mut wheel = Wheel::new(5 * TICK);
        let ats = [0, 1, TICK * 6, TICK * 6 + 1, TICK * 300, TICK * 10_000];
        for (slot, at) in ats.iter().enumerate() {
            wheel.set(Alarm { slot: slot as u32, generation: 0 }, *at);
        }
        let mut fired = vec![0; ats.len()];
        let mut now = 5 * TICK;
        while fired.contains(&0) {
            let mut due = Vec::new();
            wheel.expire(now, &mut due);
            for alarm in due {
                let at = ats[alarm.slot as usize];
                if at > now {
                    assert!(at > now + TICK * 100, "asked again only for what is far away");
                    wheel.set(alarm, at);
                } else {
                    assert!(at < 5 * TICK || now - at <= TICK + TICK / 2);
                    fired[alarm.slot as usize] += 1;
                }
            }
            assert!(wheel.next().is_none_or(|next| next > now));
            now += TICK / 2;
        }
        assert_eq!(wheel.next(), None);
        assert_eq!(fired, vec![1; ats.len()]);
    }
}
