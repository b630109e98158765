//! What surrounds a relay on its host: its certificate authority, its log, its signals, the cores and descriptors that
//! it may use.

pub mod acme;
pub mod cores;
pub mod logging;
pub mod metrics;
pub mod nofile;
pub mod signals;
