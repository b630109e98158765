//! The STUN server: tells clients the address that they are seen under.
//!
//! One thread serves all of its sockets, a batch at a time and without an allocation. It is at a lower priority than
//! workers, and whoever floods it costs one core's spare time: packets of DERP come first.

mod networks;
mod server;
mod socket;
mod stats;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::driver::udp;
use crate::driver::wake::WakeHandle;
use crate::edge::be_nice;
pub use crate::proto::stun::Clients;
use server::Server;
pub use socket::{OpenError, open};
pub use stats::Stats;

/// The running thread.
pub struct Stun {
    sockets: Arc<[UdpSocket]>,
    end: Arc<WakeHandle>,
    thread: JoinHandle<()>,
}

impl Stun {
    /// Serves on sockets of UDP that are bound, wherever they come from; at least one.
    ///
    /// # Errors
    /// One of them is no such socket, or the thread cannot be had.
    pub fn start(sockets: Vec<UdpSocket>, clients: Clients, stats: Arc<Stats>) -> io::Result<Self> {
        sockets.iter().try_for_each(|socket| udp::tell_local_address(socket.as_fd()))?;
        let sockets: Arc<[UdpSocket]> = sockets.into();
        let end = Arc::new(WakeHandle::new()?);
        let (inner, end_inner) = (sockets.clone(), end.clone());
        let (ready, started) = mpsc::channel();
        let main = move || {
            be_nice();
            let server = Server::new(clients, stats);
            // Who started it waits for this.
            let _ = ready.send(());
            server.run(&inner, &end_inner);
        };
        let thread = std::thread::Builder::new().name("stun".to_owned()).spawn(main)?;
        started.recv().map_err(|_| io::Error::other("the STUN thread ended at once"))?;
        Ok(Self { sockets, end, thread })
    }

    /// What it serves on: another process that is given duplicates of these goes on where this one stops.
    pub fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Ends the thread. Requests that it has not received yet stay in the sockets, for whoever else has them.
    pub fn stop(self) {
        self.end.wake();
        // A thread that panicked has said so.
        let _ = self.thread.join();
    }
}
