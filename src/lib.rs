//! A thread-per-core DERP relay.
//!
//! Bytes flow one way through the crate: `edge` admits a connection, a `worker` owns it from then on, and the modules
//! named in the worker's line (`driver`, `tls`, `proto`, `mem`) know nothing of each other. `docs/ARCHITECTURE.md`
//! follows a packet file by file.

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod driver;
pub mod edge;
pub mod limits;
pub mod mem;
pub mod proto;
pub mod relay;
pub mod stats;
pub mod stun;
pub mod tls;
pub mod worker;
