//! A session's queues outside of any worker's chunks: the form in which they go to another worker.

use super::{Bounds, Dropped, Egress, Queue};
use crate::mem::chunk::{ChunkPool, Counts, FrameClass, FrameMeta, NIL};

/// Everything that waited, in its order.
#[derive(Debug, Default)]
pub struct Packed {
    control: Frames,
    disco: Frames,
    data: Frames,
    /// Sealed: these bytes follow those that the socket has taken.
    wire: Vec<WirePart>,
    wire_bytes: Vec<u8>,
    disco_in_order: bool,
}

#[derive(Debug, Default)]
struct Frames {
    metas: Vec<FrameMeta>,
    bytes: Vec<u8>,
}

/// A sealed chunk, or what is left of it.
#[derive(Clone, Copy, Debug)]
struct WirePart {
    len: u32,
    counts: Counts,
}

impl Packed {
    /// The packets in it, as if they were all dropped.
    pub fn held(&self) -> Dropped {
        let mut held = Dropped::default();
        for meta in self.disco.metas.iter().chain(&self.data.metas) {
            held.count(*meta);
        }
        for part in &self.wire {
            held.add_counts(part.counts);
        }
        held
    }
}

impl Egress {
    /// Takes everything out of the chunks.
    pub fn pack(&mut self, pool: &mut ChunkPool) -> Packed {
        let queues = std::mem::take(self);
        let mut packed = Packed {
            control: queues.control.pack(pool),
            disco: queues.disco.pack(pool),
            data: queues.data.pack(pool),
            disco_in_order: queues.disco_in_order,
            ..Packed::default()
        };
        let mut id = queues.wire.head;
        while id != NIL {
            let chunk = &pool[id];
            packed.wire.push(WirePart { len: chunk.len() as u32, counts: chunk.counts() });
            packed.wire_bytes.extend_from_slice(chunk.bytes());
            let next = chunk.next;
            pool.give(id);
            id = next;
        }
        packed
    }

    /// The same queues in this worker's chunks.
    pub fn unpack(packed: &Packed, pool: &mut ChunkPool) -> Self {
        let mut egress = Self { disco_in_order: packed.disco_in_order, ..Self::default() };
        packed.control.iter().for_each(|(frame, meta)| egress.control.push(pool, frame, meta));
        packed.disco.iter().for_each(|(frame, meta)| egress.disco.push(pool, frame, meta));
        for (frame, meta) in packed.data.iter() {
            egress.news += u32::from(meta.class == FrameClass::Control);
            egress.disco_in_data += u32::from(meta.class == FrameClass::Disco);
            egress.data.push(pool, frame, meta);
        }
        let mut at = 0;
        for part in &packed.wire {
            let id = pool.take();
            let chunk = &mut pool[id];
            let len = part.len as usize;
            chunk.data[..len].copy_from_slice(&packed.wire_bytes[at..at + len]);
            (chunk.start, chunk.end) = (0, part.len);
            chunk.set_counts(part.counts);
            at += len;
            egress.push_wire(pool, id);
        }
        egress
    }

    /// Queues behind everything what was queued elsewhere; returns what had to go for it. Nothing in it is sealed.
    pub fn append(&mut self, later: &Packed, pool: &mut ChunkPool, bounds: &Bounds) -> Dropped {
        debug_assert!(later.wire.is_empty(), "what is sealed has a place in the stream already");
        let mut dropped = Dropped::default();
        later.control.iter().for_each(|(frame, _)| self.push_control(pool, frame));
        // News of a peer may wait here that has come back since: nothing of it may overtake them.
        self.disco_in_order |= self.news > 0;
        for (frame, meta) in later.disco.iter().chain(later.data.iter()) {
            if meta.class == FrameClass::Control {
                self.push_in_order(pool, frame);
                self.disco_in_order = true;
                continue;
            }
            dropped.merge(self.push_packet(pool, bounds, frame, meta.class == FrameClass::Disco, meta.queued_us));
        }
        self.disco_in_order |= later.disco_in_order && self.news + self.disco_in_data > 0;
        dropped
    }
}

impl Queue {
    fn pack(self, pool: &mut ChunkPool) -> Frames {
        let mut frames = Frames::default();
        let mut id = self.head;
        while id != NIL {
            let chunk = &pool[id];
            frames.metas.extend_from_slice(chunk.frames());
            frames.bytes.extend_from_slice(chunk.bytes());
            let next = chunk.next;
            pool.give(id);
            id = next;
        }
        frames
    }
}

impl Frames {
    fn iter(&self) -> impl Iterator<Item = (&[u8], FrameMeta)> {
        self.metas.iter().scan(0, |at, meta| {
            let begin = *at;
            *at += meta.len as usize;
            Some((&self.bytes[begin..*at], *meta))
        })
    }
}
