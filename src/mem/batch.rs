//! Batches: what one worker sends another in one turn, and the buffer it lies in.
//!
//! A batch is filled by its maker, read by one receiver, and comes home to be filled again, so that no memory is
//! allocated on one core and freed on another. Coming home is also the acknowledgement of what was in it.

use crate::proto::key::NodeKey;

/// Bytes of packets that a batch holds: the largest frame, or many small ones. Its buffer is made for the first packet,
/// because many batches only ever carry notes, and never grows.
pub const FULL_BYTES: usize = 64 * 1024 + 64;
const _: () = assert!(FULL_BYTES >= crate::limits::MAX_PACKET + crate::proto::frame::PACKET_HEAD);
/// Items after which a batch is full.
pub const FULL_ITEMS: usize = 512;

/// A connection, in the whole process and for all time: worker, slot and generation of the slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnId(u64);

impl ConnId {
    const SLOT_BITS: u32 = 24;
    const WORKER_BITS: u32 = 12;
    pub const SLOTS_MAX: usize = 1 << Self::SLOT_BITS;
    pub const WORKERS_MAX: usize = 1 << Self::WORKER_BITS;
    /// Generations wrap here: a slot must be reused 268 million times before a stale name could fit again.
    pub const GENERATIONS: u32 = 1 << (64 - Self::SLOT_BITS - Self::WORKER_BITS);

    pub fn new(worker: u16, slot: u32, generation: u32) -> Self {
        debug_assert!((slot as usize) < Self::SLOTS_MAX && usize::from(worker) < Self::WORKERS_MAX);
        debug_assert!(generation < Self::GENERATIONS);
        let high = u64::from(generation) << (Self::SLOT_BITS + Self::WORKER_BITS);
        Self(high | u64::from(worker) << Self::SLOT_BITS | u64::from(slot))
    }

    #[inline]
    pub fn slot(self) -> u32 {
        self.0 as u32 & (Self::SLOTS_MAX as u32 - 1)
    }

    #[inline]
    pub fn worker(self) -> u16 {
        (self.0 >> Self::SLOT_BITS) as u16 & (Self::WORKERS_MAX as u16 - 1)
    }

    #[inline]
    pub fn generation(self) -> u32 {
        (self.0 >> (Self::SLOT_BITS + Self::WORKER_BITS)) as u32
    }
}

/// A packet on its way to a connection of another worker: a whole RecvPacket frame.
#[derive(Clone, Copy, Debug)]
pub struct Parcel {
    pub to: ConnId,
    /// Where its frame lies in [`Batch::bytes`].
    pub at: u32,
    pub len: u32,
    pub queued_us: u32,
    pub disco: bool,
    /// The receiver must note that this destination has heard of this source.
    pub introduce: bool,
}

/// A change that every worker must see, in order with the packets.
#[derive(Clone, Copy, Debug)]
pub enum Note {
    Join(Join),
    Depart {
        key: NodeKey,
        conn: ConnId,
    },
    /// A connection that shares its key with others has spoken and takes over.
    Active {
        key: NodeKey,
        conn: ConnId,
        stamp: u64,
    },
    /// A mesh peer wants this connection closed.
    Close {
        conn: ConnId,
    },
    /// A connection wants to move here.
    Reserve {
        key: NodeKey,
        from: ConnId,
    },
    /// The name that it will have, if it may come.
    Reserved {
        from: ConnId,
        to: Option<ConnId>,
    },
    /// It does not come.
    Release {
        to: ConnId,
    },
    /// It is reached under its new name from now on.
    Moved {
        key: NodeKey,
        from: ConnId,
        to: ConnId,
    },
    /// Nothing more comes for the old name, and all that it had sent has been dealt with.
    Flushed {
        from: ConnId,
    },
}

/// A connection that has logged in.
#[derive(Clone, Copy, Debug)]
pub struct Join {
    pub key: NodeKey,
    pub conn: ConnId,
    /// Larger is later; ties are broken by `conn`.
    pub stamp: u64,
    /// IPv4 as v4-mapped; zeros when unknown.
    pub ip: [u8; 16],
    pub port: u16,
    /// PeerPresent flags.
    pub flags: u8,
}

#[derive(Clone, Copy, Debug)]
pub enum Item {
    Packet(Parcel),
    Note(Note),
}

#[derive(Debug)]
pub struct Batch {
    pub maker: u16,
    /// Whom it was made for.
    pub to: u16,
    /// Publication that this batch carries the joins of; 0 for none.
    pub publication: u64,
    pub bytes: Vec<u8>,
    pub items: Vec<Item>,
    /// Packets among the items.
    pub packets: u32,
    /// Batches travel as a chain, so that one push carries a whole turn.
    pub next: Option<Box<Batch>>,
}

impl Batch {
    fn new(maker: u16) -> Box<Self> {
        Box::new(Self {
            maker,
            to: maker,
            publication: 0,
            bytes: Vec::new(),
            items: Vec::with_capacity(64),
            packets: 0,
            next: None,
        })
    }

    /// Whether another item, with a frame of `len` bytes, still fits.
    #[inline]
    pub fn has_room(&self, len: usize) -> bool {
        self.bytes.len() + len <= FULL_BYTES && self.items.len() < FULL_ITEMS
    }

    /// Appends a frame; `parcel.at` and `parcel.len` are set here.
    #[inline]
    pub fn push_packet(&mut self, mut parcel: Parcel, frame: &[u8]) {
        parcel.at = self.bytes.len() as u32;
        parcel.len = frame.len() as u32;
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(FULL_BYTES);
        }
        self.bytes.extend_from_slice(frame);
        self.items.push(Item::Packet(parcel));
        self.packets += 1;
    }

    #[inline]
    pub fn frame(&self, parcel: &Parcel) -> &[u8] {
        &self.bytes[parcel.at as usize..(parcel.at + parcel.len) as usize]
    }

    fn reset(&mut self) {
        self.publication = 0;
        self.bytes.clear();
        self.items.clear();
        self.packets = 0;
        self.next = None;
    }
}

/// A worker's own batches while they are at home.
#[derive(Debug)]
pub struct BatchPool {
    maker: u16,
    #[expect(clippy::vec_box, reason = "a batch keeps its box on the way to its receiver and back")]
    free: Vec<Box<Batch>>,
    /// Batches that are not at home.
    away: usize,
}

impl BatchPool {
    /// Batches kept for the next burst.
    const KEEP_FREE: usize = 256;
    /// Batches kept when nothing goes on.
    const KEEP_IDLE: usize = 16;

    pub fn new(maker: u16) -> Self {
        Self { maker, free: Vec::new(), away: 0 }
    }

    #[inline]
    pub fn take(&mut self, to: u16) -> Box<Batch> {
        self.away += 1;
        let mut batch = self.free.pop().unwrap_or_else(|| Batch::new(self.maker));
        batch.to = to;
        batch
    }

    pub fn give(&mut self, mut batch: Box<Batch>) {
        debug_assert_eq!(batch.maker, self.maker, "a batch goes home to its maker");
        self.away -= 1;
        batch.reset();
        if self.free.len() < Self::KEEP_FREE {
            self.free.push(batch);
        }
    }

    /// Returns memory to the allocator when all batches are at home: a storm of logins leaves many, and large ones.
    pub fn trim(&mut self) {
        if self.away == 0 {
            self.free.truncate(Self::KEEP_IDLE);
            self.free.iter_mut().for_each(|batch| batch.items.shrink_to(FULL_ITEMS / 8));
        }
    }

    /// Batches that have not come home.
    pub fn away(&self) -> usize {
        self.away
    }
}
