//! What surrounds a relay on its host: its log, its signals, the cores and descriptors that it may use.

pub mod cores;
pub mod logging;
pub mod nofile;
pub mod signals;
pub mod vars;
