//! Workers are woken once for all logins of a round, and not for each: a wake costs as much as several packets.

use std::cell::RefCell;

use tokio::sync::Notify;

use super::Workers;

#[derive(Default)]
pub(super) struct Bells {
    /// Workers that were handed something since they were last rung.
    marked: RefCell<Vec<usize>>,
    wake: Notify,
}

impl Bells {
    /// The worker is rung when every task that is ready now has had its turn.
    pub fn mark(&self, worker: usize) {
        let mut marked = self.marked.borrow_mut();
        if !marked.contains(&worker) {
            marked.push(worker);
        }
        self.wake.notify_one();
    }

    /// Never ends.
    pub async fn run(&self, workers: &dyn Workers) {
        loop {
            self.wake.notified().await;
            self.ring(workers);
        }
    }

    pub fn ring(&self, workers: &dyn Workers) {
        for worker in self.marked.borrow_mut().drain(..) {
            workers.ring(worker);
        }
    }
}
