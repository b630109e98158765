//! What surrounds a relay on its host: its log, its signals, its sockets, its certificate authority, the cores and
//! descriptors that it may use.

pub mod acme;
pub mod bootstrap_dns;
pub mod cores;
pub mod huge_pages;
pub mod logging;
pub mod metrics;
pub mod nofile;
pub mod reload;
pub mod signals;
pub mod sockets;
pub mod systemd;
pub mod takeover;
