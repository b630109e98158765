//! A stress tool for any DERP relay.
//!
//! It logs in as many clients, sends packets between them in a given shape, and checks each packet
//! that arrives. The figures are those of the relay only while the generator keeps up, so it
//! measures itself too and says when it did not.
//!
//! ```text
//! cli        flags -> validated Plan
//! derp       frames and login, no I/O
//! tls        handshake (rustls), records (sealed and opened in place)
//! traffic    shapes, payload, window and order of one link, schedule: no I/O
//! engine     sockets, epoll, phases of one thread: joins the above
//! crew       the threads, and what is done step by step
//! measure    counters, /proc, report
//! stun       requests of STUN in place of all that
//! ```

pub mod cli;
pub mod crew;
pub mod derp;
pub mod engine;
pub mod error;
pub mod measure;
pub mod stun;
pub mod tls;
pub mod traffic;
