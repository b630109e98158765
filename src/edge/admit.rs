//! How many clients there may be, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Live, Workers};
use crate::stats::CloseReason;
use crate::worker::bridge::Event;

/// Shared by all edges. Counts connections from the decision to let them in until their worker says that they ended.
#[derive(Default)]
pub(super) struct Admission {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    /// Kept without a limit, too: one may come while the relay runs, and holds then for whoever is here.
    by_net: HashMap<IpAddr, usize>,
}

/// What holds for a login that comes now.
#[derive(Clone, Copy, Default)]
pub(super) struct Limits {
    max: Option<usize>,
    max_per_net: Option<usize>,
}

impl Limits {
    pub fn of(live: &Live) -> Self {
        Self { max: live.max_clients, max_per_net: live.max_clients_per_ip }
    }
}

impl Admission {
    /// A place for a client at `ip`, given back when dropped. Without an address only the bound on all counts.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn reserve(&self, ip: Option<IpAddr>, limits: Limits, workers: &dyn Workers) -> Result<Place<'_>, CloseReason> {
        let net = ip.map(net);
        self.settle(workers);
        let mut counts = self.counts();
        if limits.max.is_some_and(|max| counts.total >= max) {
            return Err(CloseReason::MaxClients);
        }
        if let Some(net) = net {
            let here = counts.by_net.get(&net).copied().unwrap_or_default();
            if limits.max_per_net.is_some_and(|max| here >= max) {
                return Err(CloseReason::MaxClientsPerIp);
            }
            counts.by_net.insert(net, here + 1);
        }
        counts.total += 1;
        Ok(Place { admission: self, net, kept: false })
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
    kept: bool,
}

impl Place<'_> {
    /// The client's worker will give it back.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.kept {
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
        let (ended, admission) = (Ended::default(), Admission::default());
        let limits = Limits { max: Some(3), max_per_net: Some(2) };
        let reserve = |ip: &str| admission.reserve(Some(ip.parse().unwrap()), limits, &ended);
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

    /// A limit that comes while the relay runs counts those who came before it, and lets none of them go.
    #[test]
    fn limits_change_while_clients_are_here() {
        let (ended, admission) = (Ended::default(), Admission::default());
        let reserve = |max, max_per_net| {
            let ip = "10.0.0.1".parse().unwrap();
            admission.reserve(Some(ip), Limits { max, max_per_net }, &ended).map(Place::keep)
        };
        for _ in 0..3 {
            reserve(None, None).unwrap();
        }
        assert_eq!(reserve(None, Some(3)).err(), Some(CloseReason::MaxClientsPerIp));
        assert_eq!(reserve(Some(2), None).err(), Some(CloseReason::MaxClients));
        reserve(Some(4), Some(4)).unwrap();
        for _ in 0..2 {
            ended.push("10.0.0.1");
        }
        reserve(None, Some(3)).unwrap();
        assert_eq!(reserve(None, Some(3)).err(), Some(CloseReason::MaxClientsPerIp));
    }
}
