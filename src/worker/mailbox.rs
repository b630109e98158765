//! Between workers: inboxes that never block and never evict, and the outboxes in front of them.
//!
//! A worker fills at most one chain of batches per destination and turn and pushes it once. What the inbox does not
//! take, or what would put more batches on the way than the destination may owe us, waits in the outbox; there the
//! oldest packets go first when it is full, disco last. Notes and batches on their way home are never dropped.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::mem::batch::{Batch, BatchPool, FULL_ITEMS, Item, Note, Parcel};
use crate::worker::egress::Dropped;

/// Chains that one inbox holds. Each worker has at most a few in it; the bound on bytes is that of batches away.
pub const INBOX_CHAINS: usize = 1024;
/// Batches that may be away to one destination: 4 MiB of packets, the same that one session may have queued.
const AWAY_MAX: usize = 64;
/// Packets and bytes that wait in front of one inbox.
const OUTBOX_PACKETS: u32 = 2048;
const OUTBOX_BYTES: usize = 4 << 20;

/// The receiving end of one worker, shared by all that send to it.
pub type Inbox = ArrayQueue<Box<Batch>>;

/// What waits for one destination.
#[derive(Debug, Default)]
struct Outbox {
    /// Ours, to be read there; in order.
    waiting: VecDeque<Box<Batch>>,
    /// Theirs, read here, going home.
    #[expect(clippy::vec_box, reason = "batches travel in their boxes")]
    homeward: Vec<Box<Batch>>,
    /// A batch going home acknowledges a publication: its maker must wake for it.
    urgent: bool,
    /// Of our batches there: not yet come home.
    away: usize,
    packets: u32,
    bytes: usize,
    /// Stands in the list of destinations to post to.
    listed: bool,
}

/// All outboxes of one worker.
#[derive(Debug)]
pub struct Mailbox {
    me: u16,
    inboxes: Arc<[Inbox]>,
    outboxes: Vec<Outbox>,
    /// Destinations with something to post.
    dirty: Vec<u16>,
    retry: Vec<u16>,
    pool: BatchPool,
    /// Publication that the newest notes belong to.
    publication: u64,
    stuck: bool,
    /// Empty: lends its memory to the clean-up of an outbox.
    kept: VecDeque<Box<Batch>>,
}

/// What one round of posting did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Posted {
    pub chains: u32,
    /// A full inbox or missing credit left something waiting.
    pub stuck: bool,
}

impl Mailbox {
    pub fn new(me: u16, inboxes: Arc<[Inbox]>) -> Self {
        let outboxes = (0..inboxes.len()).map(|_| Outbox::default()).collect();
        Self {
            me,
            inboxes,
            outboxes,
            dirty: Vec::new(),
            retry: Vec::new(),
            pool: BatchPool::new(me),
            publication: 0,
            stuck: false,
            kept: VecDeque::new(),
        }
    }

    pub fn workers(&self) -> usize {
        self.inboxes.len()
    }

    /// Takes the next chain that was sent to us.
    #[inline]
    pub fn receive(&mut self) -> Option<Box<Batch>> {
        self.inboxes[usize::from(self.me)].pop()
    }

    pub fn has_mail(&self) -> bool {
        !self.inboxes[usize::from(self.me)].is_empty()
    }

    /// Adds a packet for a connection of another worker; returns what had to go for it.
    #[inline]
    pub fn send_packet(&mut self, parcel: Parcel, frame: &[u8]) -> Dropped {
        let to = parcel.to.worker();
        let batch = self.batch_for(to, frame.len());
        batch.push_packet(parcel, frame);
        let outbox = &mut self.outboxes[usize::from(to)];
        outbox.packets += 1;
        outbox.bytes += frame.len();
        if outbox.packets > OUTBOX_PACKETS || outbox.bytes > OUTBOX_BYTES {
            return self.shed(to);
        }
        Dropped::default()
    }

    /// Adds a note for one other worker.
    pub fn send_note(&mut self, to: u16, note: Note) {
        self.batch_for(to, 0).items.push(Item::Note(note));
    }

    /// Adds a note for every other worker that they must acknowledge. Returns how many batches began to carry this
    /// publication: so many returns acknowledge it.
    pub fn publish(&mut self, publication: u64, note: Note) -> u32 {
        let mut marked = 0;
        self.publication = publication;
        for to in 0..self.inboxes.len() as u16 {
            if to == self.me {
                continue;
            }
            let batch = self.batch_for(to, 0);
            batch.items.push(Item::Note(note));
            marked += u32::from(batch.publication == 0);
            batch.publication = publication;
        }
        marked
    }

    /// Adds a note for every other worker.
    pub fn broadcast(&mut self, note: Note) {
        for to in 0..self.inboxes.len() as u16 {
            if to != self.me {
                self.send_note(to, note);
            }
        }
    }

    /// Sends a batch that was read back to its maker.
    pub fn send_home(&mut self, batch: Box<Batch>) {
        let to = batch.maker;
        let outbox = &mut self.outboxes[usize::from(to)];
        outbox.urgent |= batch.publication != 0;
        outbox.homeward.push(batch);
        self.list(to);
    }

    /// Takes one of our own batches back; returns the publication that its return acknowledges, or 0.
    pub fn welcome(&mut self, batch: Box<Batch>) -> u64 {
        let from = batch.to;
        let publication = batch.publication;
        self.outboxes[usize::from(from)].away -= 1;
        if !self.outboxes[usize::from(from)].waiting.is_empty() {
            self.list(from);
        }
        self.pool.give(batch);
        publication
    }

    /// Pushes what is waiting, one chain per destination; calls `done` for each with the destination, the packets in
    /// the chain, and whether it must be woken for it.
    pub fn post(&mut self, mut done: impl FnMut(u16, u32, bool)) -> Posted {
        let mut posted = Posted::default();
        std::mem::swap(&mut self.dirty, &mut self.retry);
        while let Some(to) = self.retry.pop() {
            let outbox = &mut self.outboxes[usize::from(to)];
            outbox.listed = false;
            let credit = AWAY_MAX.saturating_sub(outbox.away);
            let take = credit.min(outbox.waiting.len());
            let Some(chain) = link(outbox, take) else {
                if !outbox.waiting.is_empty() {
                    posted.stuck = true;
                }
                continue;
            };
            let urgent = take > 0 || outbox.urgent;
            match self.inboxes[usize::from(to)].push(chain) {
                Ok(()) => {
                    outbox.away += take;
                    outbox.urgent = false;
                    posted.chains += 1;
                    let before = outbox.packets;
                    if outbox.waiting.is_empty() {
                        outbox.packets = 0;
                        outbox.bytes = 0;
                    } else {
                        outbox.packets = outbox.waiting.iter().map(|b| b.packets).sum();
                        outbox.bytes = outbox.waiting.iter().map(|b| b.bytes.len()).sum();
                        posted.stuck = true;
                    }
                    done(to, before - outbox.packets, urgent);
                }
                Err(chain) => {
                    unlink(outbox, self.me, chain);
                    posted.stuck = true;
                    self.list(to);
                }
            }
        }
        self.stuck = posted.stuck;
        posted
    }

    /// Gives back memory of a past burst.
    pub fn trim(&mut self) {
        self.pool.trim();
    }

    /// Nothing waits and nothing of ours is away.
    pub fn is_settled(&self) -> bool {
        self.pool.away() == 0 && self.outboxes.iter().all(|o| o.waiting.is_empty() && o.homeward.is_empty())
    }

    /// Something could not be posted in the last round.
    pub fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Packets that wait in outboxes.
    pub fn packets_waiting(&self) -> u64 {
        self.outboxes.iter().flat_map(|o| &o.waiting).map(|b| u64::from(b.packets)).sum()
    }

    fn list(&mut self, to: u16) {
        let outbox = &mut self.outboxes[usize::from(to)];
        if !outbox.listed {
            outbox.listed = true;
            self.dirty.push(to);
        }
    }

    #[inline]
    fn batch_for(&mut self, to: u16, len: usize) -> &mut Batch {
        let outbox = &mut self.outboxes[usize::from(to)];
        if outbox
            .waiting
            .back()
            .is_none_or(|b| !b.has_room(len) || b.publication != 0 && b.publication != self.publication)
        {
            let batch = self.pool.take(to);
            outbox.waiting.push_back(batch);
        }
        if !outbox.listed {
            outbox.listed = true;
            self.dirty.push(to);
        }
        match self.outboxes[usize::from(to)].waiting.back_mut() {
            Some(batch) => batch,
            None => unreachable!("one was pushed above"),
        }
    }

    /// Drops a quarter of the outbox, oldest data first, disco only when no data is left. What stays of a batch is
    /// moved together, so that the bytes held are bounded too.
    #[cold]
    fn shed(&mut self, to: u16) -> Dropped {
        let outbox = &mut self.outboxes[usize::from(to)];
        let mut dropped = Dropped::default();
        for disco in [false, true] {
            for batch in &mut outbox.waiting {
                if outbox.packets <= OUTBOX_PACKETS / 4 * 3 && outbox.bytes <= OUTBOX_BYTES / 4 * 3 {
                    break;
                }
                let before = (batch.packets, batch.bytes.len());
                drop_packets(batch, disco, &mut dropped);
                outbox.packets -= before.0 - batch.packets;
                outbox.bytes -= before.1 - batch.bytes.len();
            }
        }
        let mut kept = std::mem::take(&mut self.kept);
        for mut batch in outbox.waiting.drain(..) {
            match kept.back_mut() {
                Some(last) if fits(last, &batch) => {
                    merge(last, &mut batch);
                    self.pool.give(batch);
                }
                _ => kept.push_back(batch),
            }
        }
        std::mem::swap(&mut outbox.waiting, &mut kept);
        self.kept = kept;
        dropped
    }
}

/// Drops all packets of one class from `batch` and closes the gaps.
fn drop_packets(batch: &mut Batch, disco: bool, dropped: &mut Dropped) {
    let Batch { bytes, items, packets, .. } = batch;
    let mut end = 0;
    items.retain_mut(|item| {
        let Item::Packet(parcel) = item else { return true };
        if parcel.disco == disco {
            *packets -= 1;
            dropped.add(disco, parcel.len);
            return false;
        }
        // Frames lie in the order of their items, so what is moved down never covers what is still to be moved.
        let from = parcel.at as usize;
        bytes.copy_within(from..from + parcel.len as usize, end);
        parcel.at = end as u32;
        end += parcel.len as usize;
        true
    });
    bytes.truncate(end);
}

fn fits(last: &Batch, batch: &Batch) -> bool {
    last.has_room(batch.bytes.len())
        && last.items.len() + batch.items.len() <= FULL_ITEMS
        // The return of each marked batch is counted: two must not become one.
        && (last.publication == 0 || batch.publication == 0)
}

fn merge(last: &mut Batch, batch: &mut Batch) {
    last.publication = last.publication.max(batch.publication);
    for item in batch.items.drain(..) {
        match item {
            Item::Packet(parcel) => {
                last.push_packet(parcel, &batch.bytes[parcel.at as usize..(parcel.at + parcel.len) as usize]);
            }
            Item::Note(note) => last.items.push(Item::Note(note)),
        }
    }
}

/// Links everything that goes home and the first `take` of what waits into one chain.
fn link(outbox: &mut Outbox, take: usize) -> Option<Box<Batch>> {
    let mut chain: Option<Box<Batch>> = None;
    for at in (0..take).rev() {
        if let Some(mut batch) = outbox.waiting.remove(at) {
            batch.next = chain;
            chain = Some(batch);
        }
    }
    while let Some(mut batch) = outbox.homeward.pop() {
        batch.next = chain;
        chain = Some(batch);
    }
    chain
}

/// Undoes [`link`] after a full inbox.
fn unlink(outbox: &mut Outbox, me: u16, chain: Box<Batch>) {
    let mut next = Some(chain);
    let mut at = 0;
    while let Some(mut batch) = next {
        next = batch.next.take();
        if batch.maker == me {
            outbox.waiting.insert(at, batch);
            at += 1;
        } else {
            outbox.homeward.push(batch);
        }
    }
}
