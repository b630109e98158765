//! What waits to be sent to one peer: three bounded queues of plaintext, and the drop policy.
//!
//! Control frames, disco packets and data packets wait apart and are committed in this order; within a queue the order
//! is that of arrival. A full queue drops its oldest packet. Control frames are never dropped. A frame leaves a queue
//! in one of two ways: dropped whole, or committed whole, because a sealed record can be neither dropped nor reordered.

mod dropped;
mod packed;

use crate::mem::chunk::{CAPACITY, Chunk, ChunkId, ChunkPool, Counts, FrameClass, FrameMeta, NIL};
use crate::proto::frame::HEADER_LEN;
use crate::proto::key::NodeKey;
pub use dropped::Dropped;
pub use packed::Packed;

/// Bytes that are committed at once: as much as one send takes in bulk, so little that what is committed, and can no
/// longer be dropped, stays young.
pub const COMMIT_BYTES: usize = 4 * CAPACITY;

/// Payload bytes of a RecvPacket frame of `len` bytes.
#[inline]
pub fn payload_len(len: u32) -> u32 {
    len - (HEADER_LEN + NodeKey::LEN) as u32
}

/// Bounds of the data queue and of the disco queue, each.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub packets: u32,
    pub bytes: u32,
    /// Packets that are kept whatever their size.
    pub packets_min: u32,
}

/// A FIFO of frames in chained chunks. The first chunk begins at a frame border.
#[derive(Clone, Copy, Debug)]
struct Queue {
    head: ChunkId,
    tail: ChunkId,
    /// Packets; control frames are not counted.
    packets: u32,
    bytes: u32,
}

#[derive(Debug)]
pub struct Egress {
    control: Queue,
    disco: Queue,
    data: Queue,
    /// Committed chunks: sealed, in the order of the wire.
    wire: Queue,
    /// Frames of the relay's own that stand among the data packets.
    news: u32,
    /// Disco packets that stand among the data packets.
    disco_in_data: u32,
    /// A peer that may be the subject of the relay's frames there has come back: until they have left, disco packets
    /// wait behind them, and as long as some wait there the next ones do not overtake them.
    disco_in_order: bool,
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            control: Queue::EMPTY,
            disco: Queue::EMPTY,
            data: Queue::EMPTY,
            wire: Queue::EMPTY,
            news: 0,
            disco_in_data: 0,
            disco_in_order: false,
        }
    }
}

impl Egress {
    /// Queues a packet; returns what had to go for it.
    #[inline]
    pub fn push_packet(
        &mut self,
        pool: &mut ChunkPool,
        bounds: &Bounds,
        frame: &[u8],
        disco: bool,
        now_us: u32,
    ) -> Dropped {
        let class = if disco { FrameClass::Disco } else { FrameClass::Data };
        let mut dropped = Dropped::default();
        let meta = FrameMeta { len: frame.len() as u32, queued_us: now_us, class };
        if disco && !self.disco_in_order {
            while self.disco.is_over(bounds, frame.len()) && self.drop_disco(pool, &mut dropped) {}
            self.disco.push(pool, frame, meta);
        } else {
            while self.data.is_over(bounds, frame.len()) && self.drop_data(pool, &mut dropped) {}
            self.data.push(pool, frame, meta);
            // Making room may have removed all that it had to wait for; the next one must still not overtake it.
            self.disco_in_data += u32::from(disco);
            self.disco_in_order |= disco;
        }
        dropped
    }

    /// The peer has been introduced to a source that it had not heard of since that source last left.
    ///
    /// The report of that may still wait here, and nothing of the source may overtake it.
    pub fn introduced(&mut self) {
        self.disco_in_order |= self.news > 0;
    }

    /// Queues a frame of the relay's own that may go out before everything else.
    pub fn push_control(&mut self, pool: &mut ChunkPool, frame: &[u8]) {
        let meta = FrameMeta { len: frame.len() as u32, queued_us: 0, class: FrameClass::Control };
        self.control.push(pool, frame, meta);
    }

    /// Queues a frame of the relay's own behind every packet and every such frame before it.
    ///
    /// It goes to the data queue, which leaves after the disco queue. When the packets before it are dropped and it
    /// has become the oldest, it moves behind the disco packets, and from there in the same way to the control queue.
    pub fn push_in_order(&mut self, pool: &mut ChunkPool, frame: &[u8]) {
        let meta = FrameMeta { len: frame.len() as u32, queued_us: 0, class: FrameClass::Control };
        self.data.push(pool, frame, meta);
        self.news += 1;
    }

    /// Something waits in a queue.
    #[inline]
    pub fn has_queued(&self) -> bool {
        self.control.head != NIL || self.disco.head != NIL || self.data.head != NIL
    }

    /// Something is committed that the kernel has not taken.
    #[inline]
    pub fn has_wire(&self) -> bool {
        self.wire.head != NIL
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.has_wire() && !self.has_queued()
    }

    /// Bytes waiting in the control queue.
    pub fn control_bytes(&self) -> u32 {
        self.control.bytes
    }

    /// Bytes waiting in all queues.
    pub fn queued_bytes(&self) -> u32 {
        self.control.bytes + self.disco.bytes + self.data.bytes
    }

    /// Packets waiting in the queues or committed and not yet taken by the kernel.
    pub fn packets_held(&self, pool: &ChunkPool) -> u32 {
        let mut held = self.disco.packets + self.data.packets;
        let mut id = self.wire.head;
        while id != NIL {
            held += pool[id].packets;
            id = pool[id].next;
        }
        held
    }

    /// When the oldest packet was queued that the kernel has not taken.
    pub fn oldest(&self, pool: &ChunkPool) -> Option<u32> {
        let first = |queue: &Queue| {
            let frames = if queue.head == NIL { &[] } else { pool[queue.head].frames() };
            frames.iter().find(|meta| meta.class != FrameClass::Control).map(|meta| meta.queued_us)
        };
        first(&self.wire).or_else(|| [&self.disco, &self.data].into_iter().filter_map(first).min())
    }

    /// Takes the next chunk out of the queues for sealing: whole frames, control first, then disco, then data.
    ///
    /// While the chunk's last frame goes on, [`Self::commit_rest`] must follow at once.
    #[inline]
    pub fn commit(&mut self, pool: &mut ChunkPool) -> Option<Committed> {
        let from = if self.control.head != NIL {
            FrameClass::Control
        } else if self.disco.head != NIL {
            FrameClass::Disco
        } else if self.data.head != NIL {
            FrameClass::Data
        } else {
            return None;
        };
        Some(self.commit_rest(pool, from))
    }

    /// The next chunk of the queue that [`Self::commit`] chose.
    #[inline]
    pub fn commit_rest(&mut self, pool: &mut ChunkPool, from: FrameClass) -> Committed {
        let queue = match from {
            FrameClass::Control => &mut self.control,
            FrameClass::Disco => &mut self.disco,
            FrameClass::Data => &mut self.data,
        };
        let (committed, control) = queue.take_first(pool, from);
        if from == FrameClass::Data {
            let disco = pool[committed.id].disco_packets;
            self.left_data(control, disco);
        }
        committed
    }

    #[inline]
    fn left_data(&mut self, news: u32, disco: u32) {
        self.news -= news;
        self.disco_in_data -= disco;
        self.disco_in_order &= self.news + self.disco_in_data > 0;
    }

    fn drop_data(&mut self, pool: &mut ChunkPool, dropped: &mut Dropped) -> bool {
        let before = dropped.disco;
        let (any, moved) = self.data.drop_oldest(pool, &mut self.disco, dropped);
        self.left_data(moved, dropped.disco - before);
        any
    }

    fn drop_disco(&mut self, pool: &mut ChunkPool, dropped: &mut Dropped) -> bool {
        self.disco.drop_oldest(pool, &mut self.control, dropped).0
    }

    /// Appends a sealed chunk.
    #[inline]
    pub fn push_wire(&mut self, pool: &mut ChunkPool, id: ChunkId) {
        self.wire.link(pool, id);
    }

    /// Appends to the wire what the socket did not take of a packet with `payload` bytes.
    pub fn push_rest(&mut self, pool: &mut ChunkPool, bytes: &[u8], payload: u32, disco: bool) {
        for part in bytes.chunks(CAPACITY) {
            let id = pool.take();
            pool[id].append(part);
            self.push_wire(pool, id);
        }
        let class = if disco { FrameClass::Disco } else { FrameClass::Data };
        self.count_last(pool, Counts::of(class, payload));
    }

    /// These packets end in the last chunk of the wire.
    #[inline]
    pub fn count_last(&mut self, pool: &mut ChunkPool, counts: Counts) {
        pool[self.wire.tail].set_counts(counts);
    }

    /// First committed chunk; its successors follow by `next`.
    #[inline]
    pub fn wire_head(&self) -> ChunkId {
        self.wire.head
    }

    /// Removes `taken` bytes that the kernel has taken from the front; calls `done` for each chunk that is through.
    #[inline]
    pub fn advance(&mut self, pool: &mut ChunkPool, mut taken: usize, mut done: impl FnMut(&Chunk)) {
        while taken > 0 {
            let id = self.wire.head;
            let chunk = &mut pool[id];
            let len = chunk.len();
            if taken < len {
                chunk.start += taken as u32;
                return;
            }
            taken -= len;
            done(chunk);
            self.wire.head = chunk.next;
            if self.wire.head == NIL {
                self.wire.tail = NIL;
            }
            pool.give(id);
        }
    }

    /// Drops oldest packets, data before disco, until `bytes` are gone or none is left.
    pub fn shed(&mut self, pool: &mut ChunkPool, bytes: u32) -> Dropped {
        let mut dropped = Dropped::default();
        let goal = self.queued_bytes().saturating_sub(bytes);
        while self.queued_bytes() > goal && self.drop_data(pool, &mut dropped) {}
        while self.queued_bytes() > goal && self.drop_disco(pool, &mut dropped) {}
        dropped
    }

    /// Empties everything. First what was queued, second what was committed and never left.
    pub fn clear(&mut self, pool: &mut ChunkPool) -> (Dropped, Dropped) {
        let mut queued = Dropped::default();
        let mut unsent = Dropped::default();
        for queue in [&mut self.control, &mut self.disco, &mut self.data] {
            while queue.head != NIL {
                let id = queue.head;
                for meta in pool[id].frames() {
                    queued.count(*meta);
                }
                // The rest of a frame of which the beginning was committed and the end could not be.
                unsent.add_counts(pool[id].counts());
                queue.head = pool[id].next;
                pool.give(id);
            }
            *queue = Queue::EMPTY;
        }
        while self.wire.head != NIL {
            let id = self.wire.head;
            unsent.add_counts(pool[id].counts());
            self.wire.head = pool[id].next;
            pool.give(id);
        }
        self.wire = Queue::EMPTY;
        self.left_data(self.news, self.disco_in_data);
        (queued, unsent)
    }
}

/// A chunk out of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    pub id: ChunkId,
    /// Its last frame goes on in the next chunk.
    pub continues: bool,
    pub from: FrameClass,
}

impl Queue {
    const EMPTY: Self = Self { head: NIL, tail: NIL, packets: 0, bytes: 0 };

    #[inline]
    fn is_over(&self, bounds: &Bounds, adding: usize) -> bool {
        self.packets >= bounds.packets.max(bounds.packets_min)
            || (self.packets >= bounds.packets_min && self.bytes as usize + adding > bounds.bytes as usize)
    }

    #[inline]
    fn link(&mut self, pool: &mut ChunkPool, id: ChunkId) {
        if self.tail == NIL {
            self.head = id;
        } else {
            pool[self.tail].next = id;
        }
        self.tail = id;
    }

    #[inline]
    fn push(&mut self, pool: &mut ChunkPool, frame: &[u8], meta: FrameMeta) {
        self.packets += u32::from(meta.class != FrameClass::Control);
        self.bytes += meta.len;
        if self.tail != NIL {
            let tail = &mut pool[self.tail];
            if tail.room() >= frame.len() && tail.can_begin_frame() {
                tail.begin_frame(meta);
                tail.append(frame);
                return;
            }
        }
        self.push_in_new_chunks(pool, frame, meta);
    }

    /// A frame never straddles chunks unless it is longer than one: then it begins one of its own and continues.
    fn push_in_new_chunks(&mut self, pool: &mut ChunkPool, frame: &[u8], meta: FrameMeta) {
        let mut rest = frame;
        let mut first = true;
        loop {
            let id = pool.take();
            self.link(pool, id);
            let chunk = &mut pool[id];
            if first {
                chunk.begin_frame(meta);
                first = false;
            }
            let (part, behind) = rest.split_at(rest.len().min(CAPACITY));
            chunk.append(part);
            rest = behind;
            chunk.continues = !rest.is_empty();
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Drops the oldest packet. Control frames in front of it move to `aside`: what they had to wait for here has left.
    /// Returns whether there was a packet, and how many control frames were moved.
    fn drop_oldest(&mut self, pool: &mut ChunkPool, aside: &mut Queue, dropped: &mut Dropped) -> (bool, u32) {
        let mut moved = 0;
        while self.packets > 0 {
            let Some(meta) = pool[self.head].first_frame() else {
                unreachable!("the first chunk begins with a frame");
            };
            if meta.class == FrameClass::Control {
                self.move_first(pool, aside, meta);
                moved += 1;
                continue;
            }
            dropped.count(meta);
            self.packets -= 1;
            self.remove_first(pool, meta.len);
            return (true, moved);
        }
        (false, moved)
    }

    /// Control frames are short: they never continue.
    fn move_first(&mut self, pool: &mut ChunkPool, aside: &mut Queue, meta: FrameMeta) {
        let mut frame = [0; CONTROL_MAX];
        let frame = &mut frame[..meta.len as usize];
        frame.copy_from_slice(&pool[self.head].bytes()[..meta.len as usize]);
        self.remove_first(pool, meta.len);
        aside.push(pool, frame, meta);
    }

    fn remove_first(&mut self, pool: &mut ChunkPool, len: u32) {
        self.bytes -= len;
        pool[self.head].forget_first_frame();
        let mut left = len;
        loop {
            let chunk = &mut pool[self.head];
            let here = left.min(chunk.end - chunk.start);
            chunk.start += here;
            left -= here;
            if !chunk.is_empty() {
                return;
            }
            let id = self.head;
            self.head = chunk.next;
            if self.head == NIL {
                self.tail = NIL;
            }
            pool.give(id);
            if left == 0 {
                return;
            }
        }
    }

    #[inline]
    fn take_first(&mut self, pool: &mut ChunkPool, from: FrameClass) -> (Committed, u32) {
        let id = self.head;
        let chunk = &mut pool[id];
        self.head = chunk.next;
        if self.head == NIL {
            self.tail = NIL;
        }
        chunk.next = NIL;
        let continues = chunk.continues;
        // A frame that began before this chunk has put its packet here.
        let mut sum = chunk.counts();
        let mut control = 0;
        let (mut bytes, mut last) = (0, Counts::default());
        for meta in chunk.frames() {
            bytes += meta.len;
            if meta.class == FrameClass::Control {
                control += 1;
            } else {
                last = Counts::of(meta.class, payload_len(meta.len));
                sum.add(last);
            }
        }
        self.bytes -= bytes;
        if continues {
            // It leaves where it ends.
            let carried = if bytes > 0 { last } else { sum };
            sum.sub(carried);
            pool[id].set_counts(sum);
            pool[self.head].set_counts(carried);
        } else {
            chunk.set_counts(sum);
        }
        self.packets -= sum.packets;
        (Committed { id, continues, from }, control)
    }
}

/// Longest control frame that can stand between packets: PeerGone, with room to spare.
const CONTROL_MAX: usize = 64;
const _: () = assert!(HEADER_LEN + NodeKey::LEN < CONTROL_MAX);
