//! DERP without I/O: no descriptor, clock or thread below this module.

pub mod deframe;
pub mod frame;
pub mod http;
pub mod key;
pub mod login;
pub mod proxy;
pub mod stun;
pub mod ws;
