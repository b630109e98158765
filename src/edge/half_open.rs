//! Connections that have not logged in: how many there may be, and which one goes when there are too many.
//!
//! The table is one for all edges; the sockets stay with the edge that accepted them, so who must go is told to that
//! edge through its mailbox.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Order of arrival; smaller is older.
pub(super) type Ticket = u64;

pub(super) struct HalfOpen {
    max: usize,
    max_per_net: usize,
    mailboxes: Vec<Arc<Mailbox>>,
    table: Mutex<Table>,
}

/// Orders to one edge from the others.
#[derive(Default)]
pub(super) struct Mailbox {
    cuts: Mutex<Vec<Ticket>>,
    pub wake: Notify,
}

impl Mailbox {
    pub fn take(&self) -> Vec<Ticket> {
        std::mem::take(&mut *lock(&self.cuts))
    }
}

#[derive(Default)]
struct Table {
    next: Ticket,
    /// Edge, and the address it counts under, if any.
    order: BTreeMap<Ticket, (usize, Option<IpAddr>)>,
    by_net: HashMap<IpAddr, BTreeSet<Ticket>>,
}

impl HalfOpen {
    pub fn new(max: usize, max_per_net: usize, edges: usize) -> Self {
        let mailboxes = (0..edges).map(|_| Arc::default()).collect();
        Self { max, max_per_net, mailboxes, table: Mutex::default() }
    }

    pub fn mailbox(&self, edge: usize) -> Arc<Mailbox> {
        self.mailboxes[edge].clone()
    }

    pub fn wake_all(&self) {
        for mailbox in &self.mailboxes {
            mailbox.wake.notify_one();
        }
    }

    /// Lets a newcomer in, always; at a bound the oldest one goes, that of the same address first.
    pub fn enter(&self, edge: usize, net: Option<IpAddr>) -> Ticket {
        let mut table = lock(&self.table);
        let victim = match self.oldest_of_crowd(&table, net) {
            None if table.order.len() >= self.max => table.order.first_key_value().map(|(&oldest, _)| oldest),
            crowd => crowd,
        };
        let evicted = victim.and_then(|ticket| table.remove(ticket).map(|(edge, _)| (edge, ticket)));
        let ticket = table.insert(edge, net);
        drop(table);
        self.send_away(evicted);
        ticket
    }

    /// From here on a connection counts under another address. It keeps its age, but not at the cost of one that is
    /// there already: a crowd's oldest goes, be it this one.
    pub fn place(&self, ticket: Ticket, net: Option<IpAddr>) {
        let mut table = lock(&self.table);
        if table.order.get(&ticket).is_none_or(|(_, now)| *now == net) {
            return;
        }
        table.place(ticket, net);
        let crowded = net.and_then(|net| table.by_net.get(&net)).is_some_and(|here| here.len() > self.max_per_net);
        let victim = if crowded { self.oldest_of_crowd(&table, net) } else { None };
        let evicted = victim.and_then(|ticket| table.remove(ticket).map(|(edge, _)| (edge, ticket)));
        drop(table);
        self.send_away(evicted);
    }

    fn oldest_of_crowd(&self, table: &Table, net: Option<IpAddr>) -> Option<Ticket> {
        let crowd = table.by_net.get(&net?).filter(|tickets| tickets.len() >= self.max_per_net);
        crowd.and_then(|tickets| tickets.first()).copied()
    }

    fn send_away(&self, evicted: Option<(usize, Ticket)>) {
        if let Some((edge, ticket)) = evicted {
            let mailbox = &self.mailboxes[edge];
            lock(&mailbox.cuts).push(ticket);
            mailbox.wake.notify_one();
        }
    }

    /// Makes a connection the youngest again. `None`: it is on its way out.
    pub fn renew(&self, ticket: Ticket) -> Option<Ticket> {
        let mut table = lock(&self.table);
        let (edge, net) = table.remove(ticket)?;
        Some(table.insert(edge, net))
    }

    pub fn leave(&self, ticket: Ticket) {
        lock(&self.table).remove(ticket);
    }
}

impl Table {
    fn insert(&mut self, edge: usize, net: Option<IpAddr>) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.order.insert(ticket, (edge, net));
        if let Some(net) = net {
            self.by_net.entry(net).or_default().insert(ticket);
        }
        ticket
    }

    fn place(&mut self, ticket: Ticket, net: Option<IpAddr>) {
        let Some((edge, _)) = self.remove(ticket) else { return };
        self.order.insert(ticket, (edge, net));
        if let Some(net) = net {
            self.by_net.entry(net).or_default().insert(ticket);
        }
    }

    fn remove(&mut self, ticket: Ticket) -> Option<(usize, Option<IpAddr>)> {
        let (edge, net) = self.order.remove(&ticket)?;
        let Some(crowd) = net else { return Some((edge, net)) };
        if let Some(tickets) = self.by_net.get_mut(&crowd) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.by_net.remove(&crowd);
            }
        }
        Some((edge, net))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, n]))
    }

    #[test]
    fn oldest_of_the_crowded_address_goes_first_then_the_oldest_of_all() {
        let table = HalfOpen::new(4, 2, 2);
        let a = table.enter(0, net(1));
        let b = table.enter(1, net(2));
        let c = table.enter(0, net(2));
        table.enter(0, net(2));
        assert_eq!(table.mailbox(1).take(), [b], "third from its address");
        assert!(table.mailbox(0).take().is_empty());
        table.enter(1, net(3));
        table.enter(1, net(4));
        assert_eq!(table.mailbox(0).take(), [a], "the table was full");
        assert_eq!(table.renew(a), None);
        let c = table.renew(c).unwrap();
        table.leave(c);
        table.leave(c);
        table.enter(0, net(5));
        assert!(table.mailbox(0).take().is_empty(), "there was room again");
    }

    #[test]
    fn a_proxy_has_no_share_of_its_own_and_its_clients_have() {
        let table = HalfOpen::new(8, 2, 1);
        let tickets: Vec<Ticket> = (0..6).map(|_| table.enter(0, None)).collect();
        assert!(table.mailbox(0).take().is_empty(), "more than one address may have");
        let own = table.enter(0, net(1));
        table.place(tickets[0], net(1));
        table.place(tickets[0], net(1));
        assert!(table.mailbox(0).take().is_empty(), "two of them");
        table.place(tickets[1], net(1));
        assert_eq!(table.mailbox(0).take(), [tickets[0]], "the oldest of the three");
        table.place(tickets[0], net(1));
        table.place(tickets[2], net(1));
        assert_eq!(table.mailbox(0).take(), [tickets[1]]);
        assert_eq!(table.renew(tickets[1]), None);
        table.place(tickets[2], None);
        let last = table.enter(0, net(1));
        assert!(table.mailbox(0).take().is_empty(), "a place was left");
        table.place(tickets[3], net(1));
        assert_eq!(table.mailbox(0).take(), [tickets[3]], "it is the oldest itself");
        for ticket in [own, last, tickets[2]] {
            assert!(table.renew(ticket).is_some());
        }
    }
}
