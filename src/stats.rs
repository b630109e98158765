//! Reasons and counters. Every close and every drop has exactly one reason, and metrics, logs and tests share it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter or gauge with one writing thread and any number of readers.
///
/// Only the owner may call the methods that write: load and store are separate on purpose, so that counting costs no
/// locked instruction.
#[derive(Default, Debug)]
pub struct Cell(AtomicU64);

impl Cell {
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            pub const COUNT: usize = Self::ALL.len();

            /// The label that metrics and logs print.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// Why a packet was not delivered. The labels are the reference's, which dashboards know.
    DropReason {
        UnknownDest => "unknown_dest",
        UnknownDestOnFwd => "unknown_dest_on_fwd",
        GoneDisconnected => "gone_disconnected",
        QueueHead => "queue_head",
        QueueTail => "queue_tail",
        WriteError => "write_error",
        DupClient => "dup_client",
    }
}

reasons! {
    /// Why a connection ended or was never admitted.
    CloseReason {
        /// Peer: end of stream, at a frame border or inside a frame.
        PeerClosed => "peer_closed",
        /// Peer or network: reset or another receive error.
        PeerReset => "peer_reset",
        /// Peer: nothing was taken for the whole write timeout.
        WriteTimeout => "write_timeout",
        /// Network: a send failed.
        WriteError => "write_error",
        /// Peer: a frame that the protocol forbids.
        BadFrame => "bad_frame",
        /// Peer: what a WebSocket client may not send.
        BadWebSocket => "bad_websocket",
        /// Peer: a mesh frame without mesh rights.
        NotMesh => "not_mesh",
        /// Peer: a record that does not open, or a forbidden TLS message.
        BadRecord => "bad_record",
        /// Peer: the TLS handshake failed.
        Handshake => "handshake",
        /// Peer: the HTTP head is not one.
        BadHttp => "bad_http",
        /// Peer: a PROXY header that cannot be used.
        BadProxyHeader => "bad_proxy_header",
        /// Peer, or an operator who has not named his proxy: a PROXY header from who is not trusted.
        UntrustedProxy => "untrusted_proxy",
        /// Peer: a plain HTTP exchange that ended without an upgrade.
        HttpDone => "http_done",
        /// Peer: an authority that has seen its TLS-ALPN-01 challenge.
        AcmeChallenge => "acme_challenge",
        /// Peer: ClientInfo is malformed or does not open.
        BadLogin => "bad_login",
        /// Peer: not logged in within the deadline.
        LoginDeadline => "login_deadline",
        /// Operator's bound on half-open logins; the oldest one goes.
        HalfOpenCap => "half_open_cap",
        /// Operator's `--accept-limit`: closed as soon as it was accepted.
        AcceptLimit => "accept_limit",
        /// Operator's `--max-clients`.
        MaxClients => "max_clients",
        /// Operator's `--max-clients-per-ip`.
        MaxClientsPerIp => "max_clients_per_ip",
        /// A mesh peer asked for it.
        ClosePeer => "close_peer",
        /// Peer: control frames piled up beyond their bound.
        ControlBacklog => "control_backlog",
        /// Ours: the relay stops.
        Shutdown => "shutdown",
        /// Ours: the worker could not take the connection.
        Internal => "internal",
    }
}

reasons! {
    /// What became of a datagram that came to a STUN socket.
    StunResult {
        /// Told where it came from.
        Answered => "answered",
        /// Told what is not understood (error 420).
        Refused => "refused",
        /// Stranger: no request, or not one of those that are answered.
        NotStun => "not_stun",
        /// Stranger, or many clients behind one address: the answers of this network are used up for the moment.
        RateLimited => "rate_limited",
        /// Network: the answer could not be sent.
        WriteError => "write_error",
    }
}

/// A histogram over fixed bounds with one writing thread.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    /// One per bound, not cumulative.
    buckets: [Cell; N],
    above: Cell,
    sum: Cell,
}

impl<const N: usize> Histogram<N> {
    pub fn new(bounds: &'static [u64; N]) -> Self {
        Self { bounds, buckets: std::array::from_fn(|_| Cell::default()), above: Cell::default(), sum: Cell::default() }
    }

    #[inline]
    pub fn record(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.buckets.get(at).unwrap_or(&self.above).add(1);
        self.sum.add(value);
    }

    /// Bounds with the number of values in each bucket, in rising order; behind them what is above the last.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.bounds.iter().copied().zip(self.buckets.iter().map(Cell::get))
    }

    pub fn above(&self) -> u64 {
        self.above.get()
    }

    pub fn sum(&self) -> u64 {
        self.sum.get()
    }
}

/// A histogram whose bounds are powers of two, with one writing thread. Recording finds its bucket without a search.
#[derive(Debug)]
pub struct Powers<const N: usize> {
    /// The first bound is two to this power.
    lowest: u32,
    /// Not cumulative: what is above the bound before and not above this one.
    buckets: [Cell; N],
    above: Cell,
    sum: Cell,
}

impl<const N: usize> Powers<N> {
    pub fn new(lowest: u32) -> Self {
        Self { lowest, buckets: std::array::from_fn(|_| Cell::default()), above: Cell::default(), sum: Cell::default() }
    }

    #[inline]
    pub fn record(&self, value: u64) {
        self.record_times(value, 1);
    }

    /// Records a value that came so many times.
    #[inline]
    pub fn record_times(&self, value: u64, times: u64) {
        let power = u64::BITS - value.saturating_sub(1).leading_zeros();
        let at = power.saturating_sub(self.lowest) as usize;
        self.buckets.get(at).unwrap_or(&self.above).add(times);
        self.sum.add(value * times);
    }

    /// Bounds with the number of values in each bucket, in rising order; behind them what is above the last.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(at, cell)| (1 << (self.lowest as usize + at), cell.get()))
    }

    pub fn above(&self) -> u64 {
        self.above.get()
    }

    pub fn sum(&self) -> u64 {
        self.sum.get()
    }
}

/// Frames per flush (the reference's bounds).
pub static WRITE_FRAMES_BOUNDS: [u64; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 50, 100];
/// Labels of the round-trip counter; a sample counts in the first that it is not above.
pub const ROUND_TRIP_LABELS: [&str; 10] =
    ["10ms", "20ms", "50ms", "100ms", "150ms", "250ms", "500ms", "inf", "non-tcp", "error"];
const ROUND_TRIP_MS: [u64; 7] = [10, 20, 50, 100, 150, 250, 500];
pub const ROUND_TRIP_ERROR: usize = 9;

/// Which round-trip label a sample counts under.
pub fn round_trip_label(sample: std::time::Duration) -> usize {
    ROUND_TRIP_MS.partition_point(|ms| std::time::Duration::from_millis(*ms) < sample)
}

/// Counters of one worker. It alone writes; anybody may read. Two cache lines apart from everything else, so that
/// reading disturbs no neighbour.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerStats {
    pub connections: Cell,
    pub home_connections: Cell,
    pub not_ideal_connections: Cell,
    /// By [`TlsVersion`](crate::tls::handshake::TlsVersion); plain ones are in neither.
    pub tls_connections: [Cell; 2],
    pub watchers: Cell,
    /// Of the whole relay, as this worker's directory has it.
    pub keys: Cell,
    pub dup_keys: Cell,
    pub dup_conns: Cell,
    pub dup_conns_total: Cell,

    /// Payload bytes and packets that clients sent; of packets, data and disco apart. Their sum is not counted again:
    /// whoever reads while the worker counts would see a sum that is not one.
    pub bytes_received: Cell,
    pub packets_received: [Cell; 2],
    pub bytes_sent: Cell,
    pub packets_sent: Cell,
    pub packets_forwarded_in: Cell,
    /// By reason; data and disco apart.
    pub dropped_packets: [[Cell; 2]; DropReason::COUNT],
    pub dropped_bytes: [[Cell; 2]; DropReason::COUNT],
    pub unknown_frames: Cell,
    pub home_moves_in: Cell,
    pub home_moves_out: Cell,
    pub got_ping: Cell,
    pub sent_pong: Cell,
    pub peer_gone_disconnected: Cell,
    pub peer_gone_not_here: Cell,
    pub write_timeouts: Cell,
    /// Bits of an `f64`: exponentially weighted mean of the time in the queue, in milliseconds.
    pub queue_ms: Cell,
    pub round_trip: [Cell; ROUND_TRIP_LABELS.len()],
    pub write_frames: Histogram<16>,

    /// Packets that went to another worker, and what was done for it.
    pub packets_to_workers: Cell,
    pub chains: Cell,
    pub inbox_full: Cell,
    /// Packets that were handed to a session of this worker by one of its own, and those that other workers sent.
    pub packets_local: Cell,
    pub packets_from_workers: Cell,
    /// Packets that outboxes threw out; among those dropped as [`DropReason::QueueHead`].
    pub outbox_dropped: Cell,
    /// Gauges: packets in the queues of sessions or committed and not yet taken by the kernel, and their payload.
    pub queued_packets: Cell,
    pub queued_bytes: Cell,
    /// Queued packets that left and came with sessions that moved.
    pub packets_moved_out: Cell,
    pub packets_moved_in: Cell,
    /// Sessions that went to another worker.
    pub moves: Cell,
    /// Time in which the worker did not sleep.
    pub busy_ns: Cell,
    /// The same in the last epoch, in thousandths of a core.
    pub load_permille: Cell,
    pub closes: [Cell; CloseReason::COUNT],
    pub turns: Cell,
    pub system_calls: Cell,
    pub no_buffer: Cell,
    pub wakes_sent: Cell,
    pub wakes_received: Cell,
    /// Times that the worker went to sleep.
    pub sleeps: Cell,
    /// Entries that were pushed to the kernel's ring and taken from it; none without io_uring.
    pub submissions: Cell,
    pub completions: Cell,
    /// Microseconds from the arrival of a packet at the relay until it is committed to its receiver's socket.
    pub queue_time: Powers<24>,
    /// Nanoseconds of one turn without its sleep.
    pub turn_time: Powers<21>,
    /// Packets that one turn had for one other worker.
    pub batch_packets: Powers<12>,
    /// Plaintext bytes of one sealed record, or of one chunk of a plain connection.
    pub record_bytes: Powers<10>,
    pub chunks_in_use: Cell,
    pub acquaintances: Cell,
}

impl Default for WorkerStats {
    fn default() -> Self {
        fn cells<const N: usize>() -> [Cell; N] {
            std::array::from_fn(|_| Cell::default())
        }
        fn pairs<const N: usize>() -> [[Cell; 2]; N] {
            std::array::from_fn(|_| cells())
        }
        Self {
            connections: Cell::default(),
            home_connections: Cell::default(),
            not_ideal_connections: Cell::default(),
            tls_connections: cells(),
            watchers: Cell::default(),
            keys: Cell::default(),
            dup_keys: Cell::default(),
            dup_conns: Cell::default(),
            dup_conns_total: Cell::default(),
            bytes_received: Cell::default(),
            packets_received: cells(),
            bytes_sent: Cell::default(),
            packets_sent: Cell::default(),
            packets_forwarded_in: Cell::default(),
            dropped_packets: pairs(),
            dropped_bytes: pairs(),
            unknown_frames: Cell::default(),
            home_moves_in: Cell::default(),
            home_moves_out: Cell::default(),
            got_ping: Cell::default(),
            sent_pong: Cell::default(),
            peer_gone_disconnected: Cell::default(),
            peer_gone_not_here: Cell::default(),
            write_timeouts: Cell::default(),
            queue_ms: Cell::default(),
            round_trip: cells(),
            write_frames: Histogram::new(&WRITE_FRAMES_BOUNDS),
            packets_to_workers: Cell::default(),
            chains: Cell::default(),
            inbox_full: Cell::default(),
            packets_local: Cell::default(),
            packets_from_workers: Cell::default(),
            outbox_dropped: Cell::default(),
            queued_packets: Cell::default(),
            queued_bytes: Cell::default(),
            packets_moved_out: Cell::default(),
            packets_moved_in: Cell::default(),
            moves: Cell::default(),
            busy_ns: Cell::default(),
            load_permille: Cell::default(),
            closes: cells(),
            turns: Cell::default(),
            system_calls: Cell::default(),
            no_buffer: Cell::default(),
            wakes_sent: Cell::default(),
            wakes_received: Cell::default(),
            sleeps: Cell::default(),
            submissions: Cell::default(),
            completions: Cell::default(),
            queue_time: Powers::new(0),
            turn_time: Powers::new(10),
            batch_packets: Powers::new(0),
            record_bytes: Powers::new(5),
            chunks_in_use: Cell::default(),
            acquaintances: Cell::default(),
        }
    }
}

impl WorkerStats {
    /// Counts one dropped packet, or several of one kind.
    #[inline]
    pub fn drop_packets(&self, reason: DropReason, disco: bool, packets: u64, payload: u64) {
        self.dropped_packets[reason as usize][usize::from(disco)].add(packets);
        self.dropped_bytes[reason as usize][usize::from(disco)].add(payload);
    }

    #[inline]
    pub fn queued(&self, packets: u64, payload: u64) {
        self.queued_packets.add(packets);
        self.queued_bytes.add(payload);
    }

    #[inline]
    pub fn unqueued(&self, packets: u64, payload: u64) {
        self.queued_packets.sub(packets);
        self.queued_bytes.sub(payload);
    }

    /// Packets that clients sent, data and disco.
    pub fn received(&self) -> u64 {
        self.packets_received.iter().map(Cell::get).sum()
    }

    /// Packets dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_packets.iter().flatten().map(Cell::get).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        let powers = Powers::<4>::new(3);
        for value in [0, 1, 8, 9, 16, 17, 64, 65, u64::MAX >> 1] {
            powers.record(value);
        }
        assert_eq!(powers.buckets().collect::<Vec<_>>(), [(8, 3), (16, 2), (32, 1), (64, 1)]);
        assert_eq!((powers.above(), powers.sum()), (2, 180 + (u64::MAX >> 1)));
        let bounds = Histogram::new(&[0, 8, 20]);
        for value in [0, 1, 8, 9, 20, 21, 1000] {
            bounds.record(value);
        }
        assert_eq!(bounds.buckets().collect::<Vec<_>>(), [(0, 1), (8, 2), (20, 2)]);
        assert_eq!((bounds.above(), bounds.sum()), (2, 1059));
    }
}
