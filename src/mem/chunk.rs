//! Chunks: where queued packets lie until the kernel has taken them.
//!
//! A chunk holds the plaintext of one TLS record with room for what sealing adds on both sides, so that a record is
//! made where its frames already are. Chunks belong to one worker, are linked by index into the queues of its
//! sessions, and go back to the free list when they are empty: a session with nothing to send holds none.

/// Room in front: headers of a record of TLS 1.3 (5 bytes) and of a WebSocket message (4), rounded up to keep the
/// plaintext aligned.
pub const HEADROOM: usize = 16;
/// Plaintext of one full TLS record, without the header of a WebSocket message that may be in front of it.
pub const CAPACITY: usize = 16 * 1024 - 4;
/// Room behind: content type and tag.
const TAILROOM: usize = 32;
/// Frames that may begin in one chunk. More only if they are shorter than 170 bytes on average, and then the next
/// chunk takes them.
const FRAMES: usize = 96;

/// Index of a chunk in its pool.
pub type ChunkId = u32;
/// No chunk.
pub const NIL: ChunkId = u32::MAX;

/// What the drop policy and the statistics need to know of a queued frame.
#[derive(Clone, Copy, Default, Debug)]
pub struct FrameMeta {
    /// Header included, in bytes.
    pub len: u32,
    /// When it was queued, in microseconds of the worker's clock, wrapping.
    pub queued_us: u32,
    pub class: FrameClass,
}

/// Which queue a frame is in, and whether it may be dropped.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameClass {
    #[default]
    Data,
    Disco,
    /// The relay's own frames: never dropped, counted as no packet.
    Control,
}

/// Packets and their payload bytes; how many of them are disco.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    pub packets: u32,
    pub payload: u32,
    pub disco_packets: u32,
    pub disco_payload: u32,
}

impl Counts {
    /// One packet.
    #[inline]
    pub fn of(class: FrameClass, payload: u32) -> Self {
        let disco = u32::from(class == FrameClass::Disco);
        Self { packets: 1, payload, disco_packets: disco, disco_payload: disco * payload }
    }

    #[inline]
    pub fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.payload += other.payload;
        self.disco_packets += other.disco_packets;
        self.disco_payload += other.disco_payload;
    }

    #[inline]
    pub fn sub(&mut self, other: Self) {
        self.packets -= other.packets;
        self.payload -= other.payload;
        self.disco_packets -= other.disco_packets;
        self.disco_payload -= other.disco_payload;
    }
}

pub struct Chunk {
    pub next: ChunkId,
    /// The bytes in use: plaintext while queued, wire bytes once sealed.
    pub start: u32,
    pub end: u32,
    /// The frame at the end goes on in the next chunk.
    pub continues: bool,
    /// Packets that end in a chunk that is committed to the socket, and their payload bytes; counted when the kernel
    /// has them.
    pub packets: u32,
    pub payload: u32,
    pub disco_packets: u32,
    pub disco_payload: u32,
    meta_head: u8,
    meta_len: u8,
    metas: [FrameMeta; FRAMES],
    pub data: [u8; HEADROOM + CAPACITY + TAILROOM],
}

impl Chunk {
    fn new() -> Box<Self> {
        Box::new(Self {
            next: NIL,
            start: HEADROOM as u32,
            end: HEADROOM as u32,
            continues: false,
            packets: 0,
            payload: 0,
            disco_packets: 0,
            disco_payload: 0,
            meta_head: 0,
            meta_len: 0,
            metas: [FrameMeta::default(); FRAMES],
            data: [0; HEADROOM + CAPACITY + TAILROOM],
        })
    }

    fn reset(&mut self) {
        self.next = NIL;
        self.start = HEADROOM as u32;
        self.end = HEADROOM as u32;
        self.continues = false;
        self.packets = 0;
        self.payload = 0;
        self.disco_packets = 0;
        self.disco_payload = 0;
        self.meta_head = 0;
        self.meta_len = 0;
    }

    /// Bytes in use.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.start as usize..self.end as usize]
    }

    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Plaintext that still fits behind what is there.
    #[inline]
    pub fn room(&self) -> usize {
        HEADROOM + CAPACITY - self.end as usize
    }

    #[inline]
    pub fn can_begin_frame(&self) -> bool {
        usize::from(self.meta_len) < FRAMES
    }

    #[inline]
    pub fn append(&mut self, bytes: &[u8]) {
        let end = self.end as usize;
        self.data[end..end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len() as u32;
    }

    #[inline]
    pub fn begin_frame(&mut self, meta: FrameMeta) {
        self.metas[usize::from(self.meta_len)] = meta;
        self.meta_len += 1;
    }

    #[inline]
    pub fn counts(&self) -> Counts {
        Counts {
            packets: self.packets,
            payload: self.payload,
            disco_packets: self.disco_packets,
            disco_payload: self.disco_payload,
        }
    }

    #[inline]
    pub fn set_counts(&mut self, counts: Counts) {
        self.packets = counts.packets;
        self.payload = counts.payload;
        self.disco_packets = counts.disco_packets;
        self.disco_payload = counts.disco_payload;
    }

    /// The oldest frame that begins in this chunk.
    #[inline]
    pub fn first_frame(&self) -> Option<FrameMeta> {
        self.frames().first().copied()
    }

    #[inline]
    pub fn forget_first_frame(&mut self) {
        self.meta_head += 1;
    }

    #[inline]
    pub fn frames(&self) -> &[FrameMeta] {
        &self.metas[usize::from(self.meta_head)..usize::from(self.meta_len)]
    }
}

/// All chunks of one worker.
#[derive(Default)]
pub struct ChunkPool {
    chunks: Vec<Box<Chunk>>,
    free: Vec<ChunkId>,
    in_use: u32,
}

impl ChunkPool {
    /// Free chunks kept for the next burst; one L2 cache would hold a quarter of them.
    const KEEP_FREE: usize = 512;

    /// An empty chunk; allocates only beyond the high-water mark.
    #[inline]
    pub fn take(&mut self) -> ChunkId {
        self.in_use += 1;
        match self.free.pop() {
            Some(id) => id,
            None => self.grow(),
        }
    }

    #[cold]
    fn grow(&mut self) -> ChunkId {
        self.chunks.push(Chunk::new());
        (self.chunks.len() - 1) as ChunkId
    }

    /// Gives a chunk back. Last in, first out: the next taker gets the one that is still in the cache.
    #[inline]
    pub fn give(&mut self, id: ChunkId) {
        self.in_use -= 1;
        self.chunks[id as usize].reset();
        self.free.push(id);
    }

    /// Chunks in queues and in flight.
    pub fn in_use(&self) -> usize {
        self.in_use as usize
    }

    /// Returns memory to the allocator when nothing is in use and a past burst left much behind.
    pub fn trim(&mut self) {
        if self.in_use == 0 && self.chunks.len() > Self::KEEP_FREE {
            self.chunks.truncate(Self::KEEP_FREE);
            self.chunks.shrink_to_fit();
            self.free.clear();
            self.free.extend((0..self.chunks.len() as ChunkId).rev());
            self.free.shrink_to_fit();
        }
    }
}

impl std::ops::Index<ChunkId> for ChunkPool {
    type Output = Chunk;
    #[inline]
    fn index(&self, id: ChunkId) -> &Chunk {
        &self.chunks[id as usize]
    }
}

impl std::ops::IndexMut<ChunkId> for ChunkPool {
    #[inline]
    fn index_mut(&mut self, id: ChunkId) -> &mut Chunk {
        &mut self.chunks[id as usize]
    }
}
