//! Lines that strangers can cause: a few at a time, and with the next one how many were left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets at most one line through in `every`.
#[derive(Debug)]
pub struct Limiter {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    left_out: u64,
}

impl Limiter {
    pub const fn new(every: Duration) -> Self {
        Self { every, state: Mutex::new(State { last: None, left_out: 0 }) }
    }

    /// `Some`: log it, and say how many lines were left out since the last one.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.duration_since(last) < self.every) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_a_while_and_it_counts_the_others() {
        let limiter = Limiter::new(Duration::from_secs(60));
        let start = Instant::now();
        let at = |seconds| limiter.pass_at(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(0));
        assert_eq!([at(1), at(30), at(59)], [None; 3]);
        assert_eq!(at(60), Some(3));
        assert_eq!(at(61), None);
        assert_eq!(at(200), Some(1));
        assert_eq!(at(260), Some(0));
    }
}
