//! One mean of the time in queues, out of one per worker.
//!
//! The reference has a single running mean to which every packet adds a tenth, whoever sends it. Each worker keeps one
//! of its own, of its own packets. A plain mean of these would let workers with nothing to do speak as loudly as the
//! one that all packets go through. So each counts by the packets that it has lately taken a sample of: weights fade
//! by half in [`HALF_LIFE`], and stand still as long as nobody sends anything, as the reference's mean then does.

use std::time::Duration;

/// About the time between two scrapes: an answer speaks of what went on since the last one.
const HALF_LIFE: Duration = Duration::from_secs(10);

pub struct QueueMean {
    /// Samples by worker, at the last look.
    seen: Vec<u64>,
    weights: Vec<f64>,
    /// Uptime then.
    at: Duration,
}

impl QueueMean {
    pub fn new(workers: usize) -> Self {
        Self { seen: vec![0; workers], weights: vec![0.0; workers], at: Duration::ZERO }
    }

    /// `means` and `samples` by worker: its running mean, and how many samples it has ever taken.
    pub fn over_workers(&mut self, uptime: Duration, means: &[f64], samples: &[u64]) -> f64 {
        let fresh: Vec<u64> = samples.iter().zip(&self.seen).map(|(now, seen)| now.saturating_sub(*seen)).collect();
        if fresh.iter().any(|fresh| *fresh > 0) {
            let passed = uptime.saturating_sub(self.at);
            let fade = (-passed.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
            for (weight, fresh) in self.weights.iter_mut().zip(&fresh) {
                *weight = *weight * fade + *fresh as f64;
            }
            self.seen.copy_from_slice(samples);
            self.at = uptime;
        }
        let weight: f64 = self.weights.iter().sum();
        if weight == 0.0 {
            return 0.0;
        }
        let sum: f64 = means.iter().zip(&self.weights).map(|(mean, weight)| mean * weight).sum();
        // Whole nanoseconds: a mean that fades for ever is zero at some time.
        (sum / weight * 1e6).round() / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_sends_nothing_says_nothing() {
        let mut mean = QueueMean::new(3);
        assert_eq!(mean.over_workers(SECOND, &[0.0, 0.0, 0.0], &[0, 0, 0]), 0.0);
        assert_eq!(mean.over_workers(2 * SECOND, &[0.0, 8.0, 0.0], &[0, 1000, 0]), 8.0);
        let both = mean.over_workers(3 * SECOND, &[2.0, 8.0, 0.0], &[1000, 2000, 0]);
        assert!((5.5..6.0).contains(&both), "the older half counts a little less: {both}");
    }

    #[test]
    fn what_is_long_past_fades_and_silence_keeps_the_last_word() {
        let mut mean = QueueMean::new(2);
        mean.over_workers(SECOND, &[50.0, 1.0], &[1000, 0]);
        let later = 100 * SECOND;
        let faded = mean.over_workers(later, &[50.0, 1.0], &[1000, 1000]);
        assert!(faded < 1.1, "what one worker did a minute and a half ago: {faded}");
        for hours in 1..1000 {
            let silent = mean.over_workers(later + hours * 3600 * SECOND, &[50.0, 1.0], &[1000, 1000]);
            assert_eq!(silent, faded);
        }
    }

    #[test]
    fn how_often_somebody_looks_does_not_matter_much() {
        let (mut often, mut once) = (QueueMean::new(2), QueueMean::new(2));
        let mut last = 0.0;
        for second in 1..=10 {
            let samples = [100 * u64::from(second), 300 * u64::from(second)];
            last = often.over_workers(second * SECOND, &[4.0, 8.0], &samples);
        }
        let one = once.over_workers(10 * SECOND, &[4.0, 8.0], &[1000, 3000]);
        assert!((last - one).abs() < 1e-6 && (one - 7.0).abs() < 1e-6, "{last} {one}");
    }
}
