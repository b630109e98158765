//! What one edge counts. Its thread alone writes.

use crate::control::bootstrap_dns;
use crate::stats::{Cell, CloseReason, Powers};
use crate::tls::handshake::TlsVersion;

#[derive(Debug)]
pub struct Stats {
    /// TCP connections.
    pub accepts: Cell,
    /// Gauge: 1 while descriptors have run out.
    pub accept_paused: Cell,
    pub handshakes_ok: Cell,
    pub handshakes_failed: Cell,
    pub tls12: Cell,
    pub tls13: Cell,
    /// Requests that were answered without an upgrade.
    pub http_requests: Cell,
    /// DERP handshakes begun: upgrades that were answered.
    pub derp_accepts: Cell,
    /// Connections that went to a worker.
    pub logins: Cell,
    /// Gauge: connections that are not logged in.
    pub half_open: Cell,
    /// WebSocket upgrades that were answered.
    pub websocket_accepts: Cell,
    /// What was asked of `/bootstrap-dns`, by [`bootstrap_dns::Count`].
    pub bootstrap_dns: [Cell; bootstrap_dns::Count::COUNT],
    /// Microseconds from accept until a worker has the connection.
    pub login_time: Powers<24>,
    /// Connections that ended here, by [`CloseReason`].
    pub closes: [Cell; CloseReason::COUNT],
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            accepts: Cell::default(),
            accept_paused: Cell::default(),
            handshakes_ok: Cell::default(),
            handshakes_failed: Cell::default(),
            tls12: Cell::default(),
            tls13: Cell::default(),
            http_requests: Cell::default(),
            derp_accepts: Cell::default(),
            logins: Cell::default(),
            half_open: Cell::default(),
            websocket_accepts: Cell::default(),
            bootstrap_dns: std::array::from_fn(|_| Cell::default()),
            login_time: Powers::new(0),
            closes: std::array::from_fn(|_| Cell::default()),
        }
    }
}

impl Stats {
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closes[reason as usize].get()
    }

    pub(super) fn count_close(&self, reason: CloseReason) {
        self.closes[reason as usize].add(1);
    }

    pub(super) fn count_handshake(&self, version: TlsVersion) {
        self.handshakes_ok.add(1);
        match version {
            TlsVersion::V1_2 => self.tls12.add(1),
            TlsVersion::V1_3 => self.tls13.add(1),
        }
    }
}
