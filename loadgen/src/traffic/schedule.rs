//! The open-loop schedule: writes are due at even distances, or anywhere within their own, whatever comes back.

const NS: u128 = 1_000_000_000;

/// Write k is due at `start + k * burst / rate`, computed from k: no error adds up. Scattered, it is due at a random
/// time from there to the next: two schedules whose rates have a common measure do not meet again and again.
#[derive(Debug)]
pub struct Schedule {
    start: u64,
    /// Nanoseconds between writes, as a fraction.
    step: (u128, u128),
    next: u64,
    scatter: Option<u64>,
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
        Self { start, step, next: 0, scatter: None }
    }

    /// The same, each within its own distance at a time that the seed chooses.
    pub fn scattered(self, seed: u64) -> Self {
        Self { scatter: Some(seed), ..self }
    }

    /// When the next write is due.
    pub fn due(&self) -> u64 {
        let (distance, per) = self.step;
        // A run lasts hours, not the centuries that u64 holds.
        let whole = self.start + (u128::from(self.next) * distance / per) as u64;
        // 32 bits of a fraction: the product fits, and a nanosecond is finer than any wait.
        let part = self.scatter.map_or(0, |seed| u128::from(mix(seed.wrapping_add(self.next)) >> 32));
        whole + (((distance / per) * part) >> 32) as u64
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

/// Each bit of the result depends on every bit of `n`.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
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
    fn scattered_each_stays_within_its_own_distance_and_they_fill_it() {
        let take = |seed| {
            let mut schedule = Schedule::new(500, 200, 1, Share::WHOLE).scattered(seed);
            std::iter::from_fn(move || schedule.take(u64::MAX)).take(1000)
        };
        let mut tenths = [0; 10];
        for (number, due) in take(7) {
            let within = (due - 500).checked_sub(number * 5_000_000).unwrap();
            tenths[(within / 500_000) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
        assert!(take(7).zip(take(8)).filter(|(a, b)| a == b).count() < 10);
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
