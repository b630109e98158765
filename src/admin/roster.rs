//! Who is connected, collected from all workers: page by page from each of them, from all of them at a time.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::limits;
use crate::stats::WorkerStats;
use crate::worker::listing::{Client, Page};
use crate::worker::pool::Pool;

/// Those who can be asked.
pub(super) trait Workers: Send + Sync + 'static {
    fn stats(&self) -> &[Arc<WorkerStats>];

    /// See [`Pool::list`].
    fn list(&self, worker: usize, from: u32, rows: Vec<Client>) -> Result<oneshot::Receiver<Page>, Vec<Client>>;
}

impl Workers for Pool {
    fn stats(&self) -> &[Arc<WorkerStats>] {
        Self::stats(self)
    }

    fn list(&self, worker: usize, from: u32, rows: Vec<Client>) -> Result<oneshot::Receiver<Page>, Vec<Client>> {
        Self::list(self, worker, from, rows)
    }
}

/// Everybody at about one moment.
///
/// A session that moved meanwhile may be missing. Memory: about 300 bytes a client, up to twice that while it grows;
/// there is one at a time, and who asks while one is being made waits for the next and shares it.
#[derive(Debug)]
pub(super) struct Listing {
    began: Instant,
    /// In the order of keys and addresses, each once.
    pub clients: Vec<Client>,
    /// Workers that did not answer in time: theirs are not, or not all, among the clients.
    pub missing: Vec<usize>,
}

const _: () = assert!(size_of::<Client>() <= 300, "what is said about memory above and in the limits");

impl Listing {
    pub fn began(&self) -> Instant {
        self.began
    }
}

/// Lends listings to everybody who asks.
pub(super) struct Roster {
    workers: Arc<dyn Workers>,
    making: Mutex<()>,
    last: std::sync::Mutex<Weak<Listing>>,
}

impl Roster {
    pub fn new(workers: Arc<dyn Workers>) -> Self {
        Self { workers, making: Mutex::default(), last: std::sync::Mutex::default() }
    }

    /// One that was begun at `since` or later.
    pub async fn listing(&self, since: Instant) -> Arc<Listing> {
        let _turn = self.making.lock().await;
        if let Some(last) = self.last().upgrade().filter(|last| last.began >= since) {
            return last;
        }
        let made = Arc::new(collect(&self.workers).await);
        *self.last() = Arc::downgrade(&made);
        made
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Weak<Listing>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn collect(workers: &Arc<dyn Workers>) -> Listing {
    let began = Instant::now();
    let mut asked = JoinSet::new();
    for worker in 0..workers.stats().len() {
        let workers = workers.clone();
        asked.spawn(async move { (worker, collect_from(&*workers, worker).await) });
    }
    let mut listing = Listing { began, clients: Vec::new(), missing: Vec::new() };
    while let Some(answered) = asked.join_next().await {
        // A task that panicked has ended the process, or said so.
        let Ok((worker, (mut clients, complete))) = answered else { continue };
        listing.clients.append(&mut clients);
        if !complete {
            listing.missing.push(worker);
        }
    }
    listing.missing.sort_unstable();
    put_in_order(&mut listing.clients);
    listing
}

/// All of one worker's clients, or those that it told before it fell silent.
async fn collect_from(workers: &dyn Workers, worker: usize) -> (Vec<Client>, bool) {
    let mut all = Vec::new();
    let mut from = Some(0);
    let mut rows = Vec::new();
    while let Some(slot) = from {
        rows.reserve_exact(limits::LISTING_PAGE);
        let Some(mut page) = ask(workers, worker, slot, rows).await else { return (all, false) };
        all.append(&mut page.rows);
        (from, rows) = (page.next, page.rows);
    }
    (all, true)
}

/// One page; `None` if the worker has ended or does not answer in time.
pub(super) async fn ask(workers: &dyn Workers, worker: usize, from: u32, mut rows: Vec<Client>) -> Option<Page> {
    const FULL: Duration = Duration::from_millis(5);
    let page = async {
        loop {
            match workers.list(worker, from, rows) {
                Ok(page) => return page.await.ok(),
                Err(back) => rows = back,
            }
            sleep(FULL).await;
        }
    };
    timeout(limits::LISTING_PATIENCE, page).await.ok().flatten()
}

/// Sorts, and keeps one row of a session that was told by the worker it left and by the one it went to: that with more
/// traffic, which is the later one. Two connections with one key and one address at a time differ in age.
fn put_in_order(clients: &mut Vec<Client>) {
    const SAME: Duration = Duration::from_secs(3);
    clients.sort_unstable_by_key(|c| (c.key, c.address, c.age));
    clients.dedup_by(|later, kept| {
        let same = (later.key, later.address) == (kept.key, kept.address) && later.age.abs_diff(kept.age) < SAME;
        if same && moved(later) > moved(kept) {
            std::mem::swap(later, kept);
        }
        same
    });
}

fn moved(client: &Client) -> u64 {
    client.totals.packets_in + client.totals.packets_out
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::proto::key::NodeKey;
    use crate::worker::bridge::Totals;

    /// Workers made of rows: a page is as long as asked for. One without rows does not answer.
    pub struct Crowd {
        pub workers: Vec<Option<Vec<Client>>>,
        pub stats: Vec<Arc<WorkerStats>>,
        /// Pages asked for.
        pub pages: Mutex<usize>,
        held: Mutex<Vec<oneshot::Sender<Page>>>,
    }

    impl Crowd {
        pub fn new(workers: Vec<Option<Vec<Client>>>) -> Arc<Self> {
            let stats = workers.iter().map(|_| Arc::default()).collect();
            Arc::new(Self { workers, stats, pages: Mutex::new(0), held: Mutex::default() })
        }
    }

    impl Workers for Crowd {
        fn stats(&self) -> &[Arc<WorkerStats>] {
            &self.stats
        }

        fn list(
            &self,
            worker: usize,
            from: u32,
            mut rows: Vec<Client>,
        ) -> Result<oneshot::Receiver<Page>, Vec<Client>> {
            let (reply, page) = oneshot::channel();
            *self.pages.lock().unwrap() += 1;
            let Some(all) = &self.workers[worker] else {
                self.held.lock().unwrap().push(reply);
                return Ok(page);
            };
            let from = (from as usize).min(all.len());
            let end = all.len().min(from + rows.capacity());
            rows.extend_from_slice(&all[from..end]);
            reply.send(Page { rows, next: (end < all.len()).then_some(end as u32) }).unwrap();
            Ok(page)
        }
    }

    /// The client with this number, and that much traffic.
    pub fn client(number: u32, packets: u64) -> Client {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        Client {
            key: NodeKey(key),
            address: Some(([10, 0, 0, 1], number as u16).into()),
            worker: 0,
            age: Duration::from_secs(100),
            idle: Duration::from_secs(1),
            home: false,
            mesh: false,
            prober: false,
            not_ideal: false,
            shared: false,
            websocket: false,
            tls: None,
            totals: Totals { packets_in: packets, bytes_in: packets * 100, ..Totals::default() },
            queued_packets: 0,
            queued_bytes: 0,
            queue_age: None,
            round_trip: None,
        }
    }

    pub fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn everybody_is_found_page_by_page_and_a_silent_worker_is_named() {
        let clients = |from: u32, to: u32| (from..to).map(|n| client(n, 1)).collect();
        let crowd = Crowd::new(vec![Some(clients(0, 1000)), None, Some(clients(1000, 1300))]);
        let roster = Roster::new(crowd.clone());
        let listing = run(roster.listing(Instant::now()));
        assert_eq!(listing.clients.len(), 1300);
        assert!(listing.clients.is_sorted_by_key(|c| c.key));
        assert_eq!(listing.missing, [1]);
        assert_eq!(*crowd.pages.lock().unwrap(), 4 + 1 + 2, "pages of 256");
    }

    #[test]
    fn who_asks_at_a_time_shares_a_listing_and_nobody_gets_an_old_one() {
        let crowd = Crowd::new(vec![Some(vec![client(1, 1)])]);
        let roster = Roster::new(crowd.clone());
        run(async {
            let asked = Instant::now();
            let first = roster.listing(asked).await;
            let second = roster.listing(asked).await;
            assert!(Arc::ptr_eq(&first, &second));
            let later = roster.listing(Instant::now()).await;
            assert!(!Arc::ptr_eq(&first, &later));
        });
        assert_eq!(*crowd.pages.lock().unwrap(), 2);
    }

    #[test]
    fn a_session_that_moved_stands_there_once() {
        let moved = [client(1, 10), client(1, 12)].map(|mut c| {
            c.worker = c.totals.packets_in as u16;
            c
        });
        let mut other = client(1, 3);
        other.age = Duration::from_secs(5);
        let crowd = Crowd::new(vec![Some(vec![moved[1].clone(), client(2, 1)]), Some(vec![moved[0].clone(), other])]);
        let listing = run(Roster::new(crowd).listing(Instant::now()));
        let rows: Vec<_> = listing.clients.iter().map(|c| (c.key.0[3], c.totals.packets_in)).collect();
        assert_eq!(rows, [(1, 3), (1, 12), (2, 1)], "the later one of two, and a younger connection");
    }
}
