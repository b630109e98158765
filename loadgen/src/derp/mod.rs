//! The DERP protocol as a client speaks it. No I/O.

pub mod frame;
pub mod login;
pub mod ws;
