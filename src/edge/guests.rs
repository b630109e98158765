//! The connections of one edge that have not logged in, and their deadlines.
//!
//! Time and evictions end a connection by shutting its socket down, never by abandoning what its task waits for: the
//! read or write in flight then ends, and the task with it, in the ordinary way.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Shutdown};
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::admit::net;
use super::half_open::{HalfOpen, Mailbox, Ticket};
use super::host::Stream;
use super::stats::Stats;
use crate::stats::CloseReason;

pub(super) struct Guests<S> {
    edge: usize,
    half_open: Arc<HalfOpen>,
    mailbox: Arc<Mailbox>,
    stats: Arc<Stats>,
    inner: RefCell<Inner<S>>,
}

struct Inner<S> {
    by_ticket: BTreeMap<Ticket, Rc<Guest<S>>>,
    /// How many of them no longer count as half-open.
    kept: usize,
    deadlines: BTreeSet<(Instant, Ticket)>,
}

pub(super) struct Guest<S> {
    pub stream: S,
    ticket: Cell<Ticket>,
    deadline: Cell<Instant>,
    cut: Cell<Option<CloseReason>>,
    kept: Cell<bool>,
}

impl<S> Guest<S> {
    /// Why this connection was ended from outside of its task.
    pub fn cut(&self) -> Option<CloseReason> {
        self.cut.get()
    }

    pub fn deadline(&self) -> Instant {
        self.deadline.get()
    }
}

impl<S: Stream> Guests<S> {
    pub fn new(edge: usize, half_open: Arc<HalfOpen>, stats: Arc<Stats>) -> Self {
        let mailbox = half_open.mailbox(edge);
        let inner = RefCell::new(Inner { by_ticket: BTreeMap::new(), kept: 0, deadlines: BTreeSet::new() });
        Self { edge, half_open, mailbox, stats, inner }
    }

    /// `share`: whose part of the places it takes, if anybody's.
    pub fn enter(&self, stream: S, share: Option<IpAddr>, time: Duration) -> Rc<Guest<S>> {
        let ticket = self.half_open.enter(self.edge, share.map(net));
        let deadline = Instant::now() + time;
        let cut = Cell::new(None);
        let (ticket, deadline, kept) = (Cell::new(ticket), Cell::new(deadline), Cell::new(false));
        let guest = Rc::new(Guest { stream, ticket, deadline, cut, kept });
        self.insert(&guest);
        guest
    }

    /// It turned out to be somebody else's.
    pub fn place(&self, guest: &Guest<S>, share: Option<IpAddr>) {
        self.half_open.place(guest.ticket.get(), share.map(net));
    }

    /// It has become something that may last, and takes no half-open place from here on. Its new deadline is `time`
    /// from now; called again, another one.
    pub fn keep(&self, guest: &Rc<Guest<S>>, time: Duration) {
        self.half_open.leave(guest.ticket.get());
        self.remove(guest);
        guest.kept.set(true);
        guest.deadline.set(Instant::now() + time);
        if guest.cut.get().is_none() {
            self.insert(guest);
        }
    }

    /// A new deadline, `time` from now.
    pub fn renew(&self, guest: &Rc<Guest<S>>, time: Duration) {
        // Without a ticket it is on its way out, and its edge finds it under the old one.
        if let Some(ticket) = self.half_open.renew(guest.ticket.get()) {
            self.remove(guest);
            guest.ticket.set(ticket);
            guest.deadline.set(Instant::now() + time);
            self.insert(guest);
        }
    }

    /// Afterwards nothing but its own task ends this connection.
    pub fn leave(&self, guest: &Guest<S>) {
        self.half_open.leave(guest.ticket.get());
        self.remove(guest);
    }

    /// Ends whoever is to go by now. Returns the next deadline.
    pub fn sweep(&self, now: Instant) -> Option<Instant> {
        for ticket in self.mailbox.take() {
            self.cut(ticket, CloseReason::HalfOpenCap);
        }
        loop {
            let first = self.inner.borrow().deadlines.first().copied();
            match first {
                Some((deadline, ticket)) if deadline <= now => self.cut(ticket, CloseReason::LoginDeadline),
                first => return first.map(|(deadline, _)| deadline),
            }
        }
    }

    pub fn cut_all(&self, reason: CloseReason) {
        let tickets: Vec<Ticket> = self.inner.borrow().by_ticket.keys().copied().collect();
        for ticket in tickets {
            self.cut(ticket, reason);
        }
    }

    /// Makes the edge look at its guests now.
    pub fn wake(&self) {
        self.mailbox.wake.notify_one();
    }

    /// The first reason stays.
    fn cut(&self, ticket: Ticket, reason: CloseReason) {
        let mut inner = self.inner.borrow_mut();
        let Some(guest) = inner.by_ticket.get(&ticket).cloned() else { return };
        inner.deadlines.remove(&(guest.deadline.get(), ticket));
        if guest.cut.get().is_none() {
            guest.cut.set(Some(reason));
            guest.stream.shutdown(Shutdown::Both);
        }
    }

    fn insert(&self, guest: &Rc<Guest<S>>) {
        let mut inner = self.inner.borrow_mut();
        let entry = (guest.deadline.get(), guest.ticket.get());
        if inner.by_ticket.insert(entry.1, guest.clone()).is_none() {
            inner.kept += usize::from(guest.kept.get());
        }
        inner.deadlines.insert(entry);
        self.count(&inner);
        if inner.deadlines.first() == Some(&entry) {
            // The one who sleeps until the first deadline has a new one.
            self.mailbox.wake.notify_one();
        }
    }

    fn remove(&self, guest: &Guest<S>) {
        let mut inner = self.inner.borrow_mut();
        if inner.by_ticket.remove(&guest.ticket.get()).is_some() {
            inner.kept -= usize::from(guest.kept.get());
        }
        inner.deadlines.remove(&(guest.deadline.get(), guest.ticket.get()));
        self.count(&inner);
    }

    fn count(&self, inner: &Inner<S>) {
        self.stats.half_open.set((inner.by_ticket.len() - inner.kept) as u64);
    }
}
