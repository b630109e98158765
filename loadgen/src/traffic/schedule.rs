//! The open-loop schedule: writes are due at even distances, whatever comes back.

const NS: u128 = 1_000_000_000;

/// Write k is due at `start + k * burst / rate`, computed from k: no error adds up.
#[derive(Debug)]
pub struct Schedule {
    start: u64,
    /// Nanoseconds between writes, as a fraction.
    step: (u128, u128),
    next: u64,
}

/// A part of a whole, as `mine` of `total`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share {
    pub mine: u64,
    pub total: u64,
}

impl Share {
    pub const WHOLE: Self = Self { mine: 1, total: 1 };
}

impl Schedule {
    /// This share of `rate` packets per second, in writes of `burst`.
    pub fn new(start: u64, rate: u64, burst: u64, share: Share) -> Self {
        let step = (u128::from(burst) * NS * u128::from(share.total), u128::from(rate) * u128::from(share.mine));
        Self { start, step, next: 0 }
    }

    /// When the next write is due.
    pub fn due(&self) -> u64 {
        let (distance, per) = self.step;
        // A run lasts hours, not the centuries that u64 holds.
        self.start + (u128::from(self.next) * distance / per) as u64
    }

    /// The next write that is due, by number and time.
    pub fn take(&mut self, now: u64) -> Option<(u64, u64)> {
        let due = self.due();
        (due <= now).then(|| {
            self.next += 1;
            (self.next - 1, due)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_distances_without_drift() {
        let mut schedule = Schedule::new(1000, 3, 1, Share::WHOLE);
        let times: Vec<u64> = std::iter::from_fn(|| schedule.take(u64::MAX)).take(7).map(|(_, at)| at - 1000).collect();
        assert_eq!(times, [0, 333_333_333, 666_666_666, 1_000_000_000, 1_333_333_333, 1_666_666_666, 2_000_000_000]);
    }

    #[test]
    fn bursts_are_further_apart_and_nothing_is_early() {
        let mut schedule = Schedule::new(0, 8000, 8, Share::WHOLE);
        assert_eq!(schedule.take(0), Some((0, 0)));
        assert_eq!(schedule.take(999_999), None);
        assert_eq!(schedule.take(1_000_000), Some((1, 1_000_000)));
    }

    #[test]
    fn shares_add_up_to_the_whole() {
        let count = |mine| {
            let mut schedule = Schedule::new(0, 700, 1, Share { mine, total: 7 });
            std::iter::from_fn(|| schedule.take(999_999_999)).count()
        };
        assert_eq!((count(3), count(4)), (300, 400));
    }
}
