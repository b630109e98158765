//! Bulk: a run of packets for one peer is sent from where it was received, or sealed from where it was opened, or from
//! the batch in which another worker sent it, without a copy.
//!
//! Only if nothing would be overtaken: what waits for that peer goes first, in the same send. What its socket does not
//! take is queued as ever.

use std::io::IoSlice;

use crate::driver::Driver;
use crate::mem::chunk::{CAPACITY, Counts, FrameClass, HEADROOM};
use crate::proto::frame::{self, HEADER_LEN, PACKET_HEAD};
use crate::proto::key::NodeKey;
use crate::stats::{CloseReason, DropReason};
use crate::tls::{RecordLayer, TlsFault, Transport, record};
use crate::worker::core::Core;
use crate::worker::egress::{COMMIT_BYTES, payload_len};
use crate::worker::send::PARTS;
use crate::worker::session::State;

/// What becomes of the packets that one receive has brought.
pub(super) trait Forward {
    /// The whole SendPacket frame at `start..end`.
    fn packet(&mut self, core: &mut Core, slot: u32, bytes: &mut [u8], start: usize, end: usize);

    /// Nothing may be kept back any longer.
    fn settle(&mut self, core: &mut Core, bytes: &[u8]);
}

/// Each is queued by itself.
pub(super) struct Each;

impl Forward for Each {
    #[inline]
    fn packet(&mut self, core: &mut Core, slot: u32, bytes: &mut [u8], start: usize, end: usize) {
        core.packet(slot, &mut bytes[start..end]);
    }

    #[inline]
    fn settle(&mut self, _: &mut Core, _: &[u8]) {}
}

/// Those that lie side by side and go to one session of this worker are sent together.
pub(super) struct Runs<'d, D> {
    driver: &'d mut D,
    run: Option<Run>,
}

struct Run {
    to: u32,
    start: usize,
    end: usize,
    packets: u64,
    /// Since when its first packet is on its way.
    queued_us: u32,
    /// Whose run this is, if he is of this worker.
    sender: Option<Sender>,
}

impl Run {
    #[inline]
    fn append(&mut self, end: usize) {
        self.end = end;
        self.packets += 1;
    }
}

/// A packet for the same key behind one of the same receive goes the same way: nothing that could change it comes
/// between them. All of these are counted at once.
struct Sender {
    slot: u32,
    dest: NodeKey,
    /// Packets and disco packets behind the first.
    packets: [u64; 2],
    payload: u64,
}

impl Sender {
    /// Notes a SendPacket frame, if it is for the same key.
    #[inline]
    fn goes_on(&mut self, frame: &[u8]) -> bool {
        let same = frame[HEADER_LEN..PACKET_HEAD] == self.dest.0;
        if same {
            let payload = &frame[PACKET_HEAD..];
            self.packets[usize::from(frame::is_disco(payload))] += 1;
            self.payload += payload.len() as u64;
        }
        same
    }
}

impl<'d, D: Driver> Runs<'d, D> {
    pub fn new(driver: &'d mut D) -> Self {
        Self { driver, run: None }
    }

    /// The RecvPacket frame at `start..end` goes to the session in slot `to` of this worker.
    #[inline]
    pub fn add(&mut self, core: &mut Core, to: u32, bytes: &[u8], (start, end): (usize, usize), queued_us: u32) {
        match &mut self.run {
            Some(run) if run.to == to && run.end == start => run.append(end),
            _ => {
                self.settle(core, bytes);
                self.run = Some(Run { to, start, end, packets: 1, queued_us, sender: None });
            }
        }
    }
}

impl<D: Driver> Forward for Runs<'_, D> {
    #[inline]
    fn packet(&mut self, core: &mut Core, slot: u32, bytes: &mut [u8], start: usize, end: usize) {
        let frame = &mut bytes[start..end];
        if let Some(run) = &mut self.run
            && run.end == start
            && let Some(sender) = &mut run.sender
            && sender.goes_on(frame)
        {
            frame::relabel(frame, &core.sessions[slot].key);
            run.append(end);
            return;
        }
        let dest = NodeKey::from_prefix(&frame[HEADER_LEN..]);
        if let Some((to, _)) = core.forward(slot, &dest, frame) {
            self.settle(core, bytes);
            let sender = Some(Sender { slot, dest, packets: [0; 2], payload: 0 });
            self.run = Some(Run { to, start, end, packets: 1, queued_us: core.now_us(), sender });
        }
    }

    #[inline]
    fn settle(&mut self, core: &mut Core, bytes: &[u8]) {
        let Some(run) = self.run.take() else { return };
        if let Some(Sender { slot, packets, payload, .. }) = run.sender {
            core.forwarded_here(slot, packets, payload);
        }
        let frames = &bytes[run.start..run.end];
        if frames.len() >= core.settings.run_bytes && core.takes_runs(run.to) {
            if matches!(core.sessions[run.to].transport, Transport::Plain) {
                core.send_run(self.driver, run.to, frames, run.packets, run.queued_us);
            } else {
                core.seal_run(self.driver, run.to, frames, run.queued_us);
            }
        } else {
            core.enqueue_run(run.to, frames, run.queued_us);
        }
    }
}

impl Core {
    /// What waits for this session is little enough to be sent with a run behind it, and nothing is in its way.
    fn takes_runs(&self, slot: u32) -> bool {
        let session = &self.sessions[slot];
        session.state == State::Open
            && !session.blocked
            && session.held == 0
            && !matches!(session.transport, Transport::Tls12(_))
            && session.websocket.is_none()
            && !session.egress.has_wire()
            && session.egress.queued_bytes() as usize <= CAPACITY
    }

    fn enqueue_run(&mut self, slot: u32, mut frames: &[u8], queued_us: u32) {
        while let Some(len) = frame_len(frames) {
            let (frame, rest) = frames.split_at(len);
            self.enqueue(slot, frame, frame::is_disco(&frame[PACKET_HEAD..]), queued_us);
            frames = rest;
        }
    }

    fn send_run<D: Driver>(&mut self, driver: &mut D, slot: u32, frames: &[u8], packets: u64, queued_us: u32) {
        // A plain connection has no seal that could fail.
        let _ = self.commit(slot);
        let mut parts = [IoSlice::new(&[]); PARTS];
        let (count, before) = self.parts(slot, &mut parts);
        debug_assert!(count < PARTS, "so little is queued that a part is left");
        parts[count] = IoSlice::new(frames);
        let Ok(sent) = driver.send(slot, &parts[..=count]) else {
            self.unsent(slot, frames);
            self.close(slot, CloseReason::WriteError);
            return;
        };
        self.sent(slot, sent.min(before));
        self.stats.write_frames.record(packets);
        self.sample_run(packets, queued_us);
        if sent == before + frames.len() {
            self.went(slot, packets, (frames.len() - packets as usize * PACKET_HEAD) as u64);
        } else {
            self.keep_rest(slot, frames, sent.saturating_sub(before), queued_us);
            self.block(slot);
        }
    }

    /// The same for a sealed connection, in parts of what is committed at once: a record that is made can no longer be
    /// dropped.
    fn seal_run<D: Driver>(&mut self, driver: &mut D, slot: u32, mut frames: &[u8], queued_us: u32) {
        let mut result = self.commit(slot).map(drop);
        while result.is_ok() && !frames.is_empty() {
            let mut transport = std::mem::replace(&mut self.sessions[slot].transport, Transport::Plain);
            (frames, result) = self.commit_run(slot, &mut transport, frames, queued_us);
            self.sessions[slot].transport = transport;
            while result.is_ok() && self.sessions[slot].egress.has_wire() {
                if self.send_committed(driver, slot).is_some() {
                    continue;
                }
                if self.sessions[slot].state == State::Open {
                    self.enqueue_run(slot, frames, queued_us);
                } else {
                    self.unsent(slot, frames);
                }
                return;
            }
        }
        if let Err(fault) = result {
            self.unsent(slot, frames);
            self.sessions[slot].fault = Some(fault);
            self.close(slot, CloseReason::Internal);
        }
    }

    /// Commits as many whole frames as may be committed at once, sealed. Returns those that are left.
    fn commit_run<'f>(
        &mut self,
        slot: u32,
        transport: &mut Transport,
        mut frames: &'f [u8],
        queued_us: u32,
    ) -> (&'f [u8], Result<(), TlsFault>) {
        let Transport::Tls13(records) = transport else { return (frames, Err(TlsFault::Ours)) };
        let (mut packets, mut bytes) = (0, 0);
        while bytes < COMMIT_BYTES && !frames.is_empty() {
            let (len, counts) = one_record(frames);
            let (record, rest) = frames.split_at(len);
            if let Err(fault) = self.commit_record(slot, records, record, counts) {
                return (frames, Err(fault));
            }
            frames = rest;
            bytes += len;
            packets += u64::from(counts.packets);
        }
        self.stats.write_frames.record(packets);
        self.sample_run(packets, queued_us);
        (frames, Ok(()))
    }

    /// Seals whole frames; more than one record only for a frame that is longer than one.
    fn commit_record(
        &mut self,
        slot: u32,
        records: &mut RecordLayer,
        frames: &[u8],
        counts: Counts,
    ) -> Result<(), TlsFault> {
        for part in frames.chunks(CAPACITY) {
            self.refresh_key(slot, records)?;
            let id = self.chunks.take();
            let chunk = &mut self.chunks[id];
            let (start, end) = (HEADROOM - record::HEADER_LEN, HEADROOM + part.len() + record::TRAILER_LEN);
            let sealed = records.seal(part, &mut chunk.data[start..end]);
            (chunk.start, chunk.end) = (start as u32, end as u32);
            self.sessions[slot].egress.push_wire(&mut self.chunks, id);
            sealed?;
            self.stats.record_bytes.record(part.len() as u64);
        }
        self.sessions[slot].egress.count_last(&mut self.chunks, counts);
        self.stats.queued(counts.packets.into(), counts.payload.into());
        Ok(())
    }

    /// The socket took `sent` bytes of these frames: the rest of the one that it took in part is committed, those
    /// behind it are queued.
    fn keep_rest(&mut self, slot: u32, mut frames: &[u8], mut sent: usize, queued_us: u32) {
        while let Some(len) = frame_len(frames)
            && sent > 0
        {
            let (frame, behind) = frames.split_at(len);
            let payload = (len - PACKET_HEAD) as u32;
            if sent < len {
                let disco = frame::is_disco(&frame[PACKET_HEAD..]);
                self.sessions[slot].egress.push_rest(&mut self.chunks, &frame[sent..], payload, disco);
                self.stats.queued(1, payload.into());
            } else {
                self.went(slot, 1, payload.into());
            }
            sent = sent.saturating_sub(len);
            frames = behind;
        }
        self.enqueue_run(slot, frames, queued_us);
    }

    /// None of these was sent, and none will be.
    #[cold]
    fn unsent(&mut self, slot: u32, mut frames: &[u8]) {
        while let Some(len) = frame_len(frames) {
            let (frame, rest) = frames.split_at(len);
            let disco = frame::is_disco(&frame[PACKET_HEAD..]);
            self.stats.drop_packets(DropReason::WriteError, disco, 1, payload_len(len as u32).into());
            self.sessions[slot].totals.drops[DropReason::WriteError as usize] += 1;
            frames = rest;
        }
    }
}

/// Length of the first of several whole frames.
#[inline]
fn frame_len(frames: &[u8]) -> Option<usize> {
    let &[_, a, b, c, d] = frames.first_chunk::<HEADER_LEN>()?;
    Some(HEADER_LEN + u32::from_be_bytes([a, b, c, d]) as usize)
}

/// Bytes of the frames at the front that fill one record, at least of one frame, and what they are.
#[inline]
fn one_record(frames: &[u8]) -> (usize, Counts) {
    let (mut end, mut counts) = (0, Counts::default());
    while let Some(len) = frame_len(&frames[end..])
        && (end == 0 || end + len <= CAPACITY)
    {
        let disco = frame::is_disco(&frames[end + PACKET_HEAD..end + len]);
        let class = if disco { FrameClass::Disco } else { FrameClass::Data };
        counts.add(Counts::of(class, (len - PACKET_HEAD) as u32));
        end += len;
    }
    (end, counts)
}

// What is queued when a run goes out makes up at most one chunk of each queue and a part of another.
const _: () = assert!(PARTS > 6);
