//! How many clients there may be, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Workers;
use crate::stats::CloseReason;
use crate::worker::bridge::Event;

/// Shared by all edges. Counts connections from the decision to let them in until their worker says that they ended.
pub(super) struct Admission {
    /// `usize::MAX`: no limit; so is the next.
    max: AtomicUsize,
    max_per_net: AtomicUsize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    /// Kept without a limit too: one may be set while clients are here.
    by_net: HashMap<IpAddr, usize>,
}

impl Admission {
    pub fn new(max: Option<usize>, max_per_net: Option<usize>) -> Self {
        let admission = Self { max: 0.into(), max_per_net: 0.into(), counts: Mutex::default() };
        admission.limit(max, max_per_net);
        admission
    }

    /// Counts for who comes from now on.
    pub fn limit(&self, max: Option<usize>, max_per_net: Option<usize>) {
        self.max.store(max.unwrap_or(usize::MAX), Ordering::Relaxed);
        self.max_per_net.store(max_per_net.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// A place for a client at `ip`, given back when dropped.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn reserve(&self, ip: IpAddr, workers: &dyn Workers) -> Result<Place<'_>, CloseReason> {
        let net = net(ip);
        self.settle(workers);
        let mut counts = self.counts();
        if counts.total >= self.max.load(Ordering::Relaxed) {
            return Err(CloseReason::MaxClients);
        }
        let here = counts.by_net.get(&net).copied().unwrap_or_default();
        if here >= self.max_per_net.load(Ordering::Relaxed) {
            return Err(CloseReason::MaxClientsPerIp);
        }
        counts.by_net.insert(net, here + 1);
        counts.total += 1;
        Ok(Place { admission: self, net: Some(net) })
    }

    /// Takes back the places of sessions that have ended.
    pub fn settle(&self, workers: &dyn Workers) {
        while let Some(event) = workers.pop_event() {
            match event {
                Event::Closed(end) => self.give_back(end.ip().map(net)),
            }
        }
    }

    fn give_back(&self, net: Option<IpAddr>) {
        let mut counts = self.counts();
        counts.total = counts.total.saturating_sub(1);
        let Some(net) = net else { return };
        if let Some(here) = counts.by_net.get_mut(&net) {
            *here -= 1;
            if *here == 0 {
                counts.by_net.remove(&net);
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // The counts are whole between any two statements that could panic.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Place<'a> {
    admission: &'a Admission,
    net: Option<IpAddr>,
}

impl Place<'_> {
    /// The client's worker will give it back.
    pub fn keep(mut self) {
        self.net = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.net.is_some() {
            self.admission.give_back(self.net);
        }
    }
}

/// What counts as one address: an IPv6 customer has at least a /64.
pub(super) fn net(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::key::NodeKey;
    use crate::worker::bridge::{Handover, Identity, SessionEnd, Totals};
    use std::collections::VecDeque;
    use std::time::Duration;

    #[derive(Default)]
    struct Ended(Mutex<VecDeque<Event>>);

    impl Ended {
        fn push(&self, ip: &str) {
            let identity = Identity {
                key: NodeKey::ZERO,
                address: Some((ip.parse::<IpAddr>().unwrap(), 1).into()),
                mesh: false,
                prober: false,
                not_ideal: false,
                websocket: false,
            };
            let event = Event::Closed(SessionEnd {
                worker: 0,
                identity,
                reason: CloseReason::PeerClosed,
                lived: Duration::ZERO,
                totals: Totals::default(),
            });
            self.0.lock().unwrap().push_back(event);
        }
    }

    impl Workers for Ended {
        fn place(&self, _: &NodeKey) -> usize {
            0
        }
        fn adopt(&self, _: usize, _: Box<Handover>) -> Result<(), Box<Handover>> {
            Ok(())
        }
        fn ring(&self, _: usize) {}
        fn pop_event(&self) -> Option<Event> {
            self.0.lock().unwrap().pop_front()
        }
    }

    #[test]
    fn places_come_back_from_failed_logins_and_from_workers() {
        let (ended, admission) = (Ended::default(), Admission::new(Some(3), Some(2)));
        let reserve = |ip: &str| admission.reserve(ip.parse().unwrap(), &ended);
        reserve("10.0.0.1").unwrap().keep();
        let failing = reserve("::ffff:10.0.0.1").unwrap();
        assert_eq!(reserve("10.0.0.1").err(), Some(CloseReason::MaxClientsPerIp));
        reserve("2001:db8::1").unwrap().keep();
        assert_eq!(reserve("10.0.0.2").err(), Some(CloseReason::MaxClients));
        drop(failing);
        reserve("2001:db8::ffff:1:2:3").unwrap().keep();
        ended.push("10.0.0.1");
        assert_eq!(reserve("2001:db8::9").err(), Some(CloseReason::MaxClientsPerIp));
        reserve("2001:db8:0:1::9").unwrap().keep();
        for ip in ["2001:db8::1", "2001:db8::1", "2001:db8:0:1::9"] {
            ended.push(ip);
        }
        admission.settle(&ended);
        let counts = admission.counts();
        assert_eq!((counts.total, counts.by_net.len()), (0, 0));
    }
}
