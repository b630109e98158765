//! Packets that leave a queue without being sent.

use super::payload_len;
use crate::mem::chunk::{Counts, FrameClass, FrameMeta};

/// What was thrown out to make room, or at the end.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub data: u32,
    pub data_bytes: u64,
    pub disco: u32,
    pub disco_bytes: u64,
    /// When the last of them was queued that waited in a queue.
    pub queued_us: Option<u32>,
}

impl Dropped {
    #[inline]
    pub fn any(&self) -> bool {
        self.data + self.disco > 0
    }

    /// Counts one packet by the length of its frame.
    pub fn add(&mut self, disco: bool, frame_len: u32) {
        let payload = u64::from(payload_len(frame_len));
        if disco {
            self.disco += 1;
            self.disco_bytes += payload;
        } else {
            self.data += 1;
            self.data_bytes += payload;
        }
    }

    pub(super) fn add_counts(&mut self, counts: Counts) {
        self.disco += counts.disco_packets;
        self.disco_bytes += u64::from(counts.disco_payload);
        self.data += counts.packets - counts.disco_packets;
        self.data_bytes += u64::from(counts.payload - counts.disco_payload);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.data += other.data;
        self.data_bytes += other.data_bytes;
        self.disco += other.disco;
        self.disco_bytes += other.disco_bytes;
        self.queued_us = other.queued_us.or(self.queued_us);
    }

    pub(super) fn count(&mut self, meta: FrameMeta) {
        if meta.class != FrameClass::Control {
            self.add(meta.class == FrameClass::Disco, meta.len);
            self.queued_us = Some(meta.queued_us);
        }
    }
}
