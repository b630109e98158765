//! When an authority is asked: late enough never to be a burden, early enough never to be without a certificate.

use std::time::{Duration, SystemTime};

use crate::limits;

/// How patient we are. Tests are in more of a hurry.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// First and longest wait after a failure; it doubles in between.
    pub retry: (Duration, Duration),
    /// Between two certificates for the same name, whatever the authority advises.
    pub between: Duration,
    /// For one order in all.
    pub order: Duration,
    /// Least and most between two questions for advice.
    pub advice: (Duration, Duration),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            retry: limits::ACME_RETRY,
            between: limits::ACME_BETWEEN,
            order: limits::ACME_ORDER,
            advice: limits::ACME_ADVICE,
        }
    }
}

/// The life of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub begin: SystemTime,
    pub end: SystemTime,
}

impl Life {
    /// When a third of it is left, or up to a thirtieth earlier: certificates that were asked for together must not
    /// come back together for ever. `chance` is from 0 to 1.
    pub fn renewal(&self, chance: f64) -> SystemTime {
        let life = self.end.duration_since(self.begin).unwrap_or_default();
        self.begin + life.mul_f64(2.0 / 3.0 - chance.clamp(0.0, 1.0) / 30.0)
    }

    /// When the authority advises (RFC 9773: any moment within its window), but not before `earliest`, and in time.
    pub fn advised(&self, window: (SystemTime, SystemTime), earliest: SystemTime, chance: f64) -> SystemTime {
        let width = window.1.duration_since(window.0).unwrap_or_default();
        let last = self.end - self.end.duration_since(self.begin).unwrap_or_default() / 6;
        (window.0 + width.mul_f64(chance.clamp(0.0, 1.0))).min(last).max(earliest)
    }
}

impl Pace {
    /// How long to wait after so many failures in a row. `told` is what the authority said itself.
    pub fn after(&self, failures: u32, told: Option<Duration>, chance: f64) -> Duration {
        let (first, most) = self.retry;
        let doubled = first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(most);
        let told = told.unwrap_or_default().min(limits::ACME_RETRY_AFTER_MAX);
        doubled.max(told).mul_f64(1.0 + chance.clamp(0.0, 1.0) / 10.0)
    }
}

/// From 0 to 1.
pub(super) fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness everything happens at its earliest, and nothing breaks.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn day(n: f64) -> SystemTime {
        UNIX_EPOCH + DAY.mul_f64(n)
    }

    #[test]
    fn a_third_of_the_life_is_left_at_renewal() {
        let life = Life { begin: day(0.0), end: day(90.0) };
        assert_eq!((life.renewal(0.0), life.renewal(1.0)), (day(60.0), day(57.0)));
        assert!(life.renewal(0.5) > day(58.0) && life.renewal(0.5) < day(59.0));
        // Nonsense in a certificate is no reason to panic.
        let backwards = Life { begin: day(90.0), end: day(0.0) };
        assert_eq!(backwards.renewal(1.0), day(90.0));
        backwards.advised((day(2.0), day(1.0)), day(3.0), 2.0);
    }

    #[test]
    fn advice_is_taken_within_reason() {
        let life = Life { begin: day(0.0), end: day(90.0) };
        let window = (day(40.0), day(42.0));
        assert_eq!(life.advised(window, day(1.0), 0.5), day(41.0));
        // In the past: at once, but not more often than we want to ask.
        assert_eq!(life.advised((day(0.0), day(0.5)), day(1.0), 1.0), day(1.0));
        // Too late to be of use.
        assert_eq!(life.advised((day(89.0), day(95.0)), day(1.0), 1.0), day(75.0));
    }

    #[test]
    fn failures_double_the_wait_up_to_a_bound() {
        let pace = Pace::default();
        let minutes = |failures| pace.after(failures, None, 0.0).as_secs() / 60;
        assert_eq!([1, 2, 3, 4, 6, 7, 8, 99].map(minutes), [1, 2, 4, 8, 32, 60, 60, 60]);
        assert_eq!(pace.after(1, None, 1.0), Duration::from_secs(66));
        assert_eq!(pace.after(1, Some(2 * DAY / 24), 0.0), 2 * DAY / 24);
        assert_eq!(pace.after(7, Some(Duration::from_secs(1)), 0.0), Duration::from_secs(3600));
        assert_eq!(pace.after(1, Some(365 * DAY), 0.0), DAY);
    }
}
