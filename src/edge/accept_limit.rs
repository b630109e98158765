//! `--accept-limit`: how many new connections are let in. Those beyond are closed at once and counted: that says
//! something to the client, and nothing piles up in the kernel, as it would if they were left to wait.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::config::AcceptLimit;

/// One for all edges. Its rule is that of Go's `rate.Limiter`, which derper uses: a bucket that begins full.
#[derive(Default)]
pub(super) struct Gate(Mutex<Option<Bucket>>);

#[derive(Clone, Copy)]
struct Bucket {
    limit: AcceptLimit,
    tokens: f64,
    at: Instant,
}

impl Gate {
    /// Whether a connection that came now is let in. The limit may be another one than before.
    pub fn lets_in(&self, limit: Option<AcceptLimit>, now: Instant) -> bool {
        let Some(limit) = limit else { return true };
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.get_or_insert(Bucket { limit, tokens: limit.burst as f64, at: now }).take(limit, now)
    }
}

impl Bucket {
    fn take(&mut self, limit: AcceptLimit, now: Instant) -> bool {
        // What has come in up to now came at the old rate; a smaller bucket spills over.
        let came = now.saturating_duration_since(self.at).as_secs_f64() * self.limit.per_second;
        self.tokens = (self.tokens + came).min(limit.burst as f64);
        self.at = self.at.max(now);
        self.limit = limit;
        let enough = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(enough));
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limit(per_second: f64, burst: u64) -> Option<AcceptLimit> {
        Some(AcceptLimit { per_second, burst })
    }

    fn let_in(gate: &Gate, limit: Option<AcceptLimit>, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| gate.lets_in(limit, now)).count()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (gate, begin) = (Gate::default(), Instant::now());
        let at = |ms| begin + Duration::from_millis(ms);
        assert_eq!(let_in(&gate, limit(10.0, 3), begin, 9), 3);
        assert_eq!(let_in(&gate, limit(10.0, 3), at(99), 9), 0, "refusals cost nothing");
        assert_eq!(let_in(&gate, limit(10.0, 3), at(101), 9), 1);
        assert_eq!(let_in(&gate, limit(10.0, 3), at(50), 9), 0, "another edge read the clock earlier");
        assert_eq!(let_in(&gate, limit(10.0, 3), at(60_000), 9), 3, "no more than the burst");
        assert_eq!(let_in(&gate, None, at(60_000), 9), 9);
    }

    /// As Go's limiter has it: nothing without a burst, and with no rate the burst once.
    #[test]
    fn the_ends_of_the_scale() {
        let later = |begin: Instant| begin + Duration::from_secs(3600);
        let begin = Instant::now();
        for (per_second, burst, first, then) in [(5.0, 0, 0, 0), (0.0, 2, 2, 0), (1e9, u64::MAX, 9, 9), (0.5, 1, 1, 1)]
        {
            let gate = Gate::default();
            assert_eq!(let_in(&gate, limit(per_second, burst), begin, 9), first, "{per_second}, {burst}");
            assert_eq!(let_in(&gate, limit(per_second, burst), later(begin), 9), then, "{per_second}, {burst}");
        }
    }

    #[test]
    fn another_limit_holds_from_the_next_connection_on() {
        let (gate, begin) = (Gate::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(let_in(&gate, limit(1.0, 100), begin, 90), 90);
        assert_eq!(let_in(&gate, limit(1.0, 2), begin, 9), 2, "a smaller bucket spills over");
        assert_eq!(let_in(&gate, limit(1.0, 100), begin, 9), 0, "a larger one fills at its rate");
        assert_eq!(let_in(&gate, limit(1.0, 100), at(5), 9), 5);
    }
}
