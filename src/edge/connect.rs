//! CONNECT: bytes between a client and the control plane, of which nothing is understood here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::admit::net;
use super::guests::Guest;
use super::host::{Host, Stream};
use super::serve::Edge;
use super::wire::Wire;
use crate::limits;
use crate::proto::http;
use crate::stats::CloseReason;
use crate::tls::{Flow, Transport};

/// Finds the addresses of a target. It may block.
pub type Lookup = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The system's resolver.
pub(super) fn system() -> Lookup {
    Arc::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
}

/// How many there are, over all edges, and who looks names up for them.
pub(super) struct Tunnels {
    counts: Mutex<Counts>,
    lookup: Lookup,
    lookups: Arc<Semaphore>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_net: HashMap<Option<IpAddr>, usize>,
}

impl Tunnels {
    pub fn new(lookup: Lookup) -> Self {
        Self { counts: Mutex::default(), lookup, lookups: Arc::new(Semaphore::new(limits::CONNECT_LOOKUPS)) }
    }

    fn reserve(&self, client: Option<SocketAddr>) -> Option<Reserved<'_>> {
        let net = client.map(|client| net(client.ip()));
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let here = counts.by_net.get(&net).copied().unwrap_or(0);
        if counts.total >= limits::CONNECT_TUNNELS || here >= limits::CONNECT_TUNNELS_PER_IP {
            return None;
        }
        counts.total += 1;
        counts.by_net.insert(net, here + 1);
        Some(Reserved { tunnels: self, net })
    }
}

struct Reserved<'a> {
    tunnels: &'a Tunnels,
    net: Option<IpAddr>,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut counts = self.tunnels.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(here) = counts.by_net.get_mut(&self.net) {
            *here -= 1;
            if *here == 0 {
                counts.by_net.remove(&self.net);
            }
        }
    }
}

/// Carries bytes until one side ends it, nothing comes for too long, or the relay stops. `Err`: what the client is told
/// instead.
pub(super) async fn tunnel<H: Host>(
    edge: &Edge<H>,
    wire: &mut Wire<H::Stream>,
    client: Option<SocketAddr>,
    target: (String, u16),
) -> Result<CloseReason, Vec<u8>> {
    let reserved = edge.shared.tunnels.reserve(client);
    let Some(_reserved) = reserved else { return Err(http::unavailable("too many tunnels")) };
    // No newcomer pushes it out from here on.
    edge.guests.keep(&wire.guest, limits::CONNECT_DIAL * 2);
    let Some(target) = dial(edge, &wire.guest, target).await else {
        return Err(http::unreachable());
    };
    if let Err(reason) = greet(wire).await {
        return Ok(reason);
    }
    let transport = RefCell::new(std::mem::replace(&mut wire.transport, Transport::Plain));
    let both = Both { edge, guest: &wire.guest, transport: &transport, target: &target };
    let unread = (std::mem::take(&mut wire.wire_in), std::mem::take(&mut wire.plain_in));
    let (up, down) = join(both.up(unread, wire.closed), both.down()).await;
    tracing::debug!(up, down, "a tunnel has ended");
    Ok(wire.guest.cut().unwrap_or(CloseReason::HttpDone))
}

async fn greet<S: Stream>(wire: &mut Wire<S>) -> Result<(), CloseReason> {
    wire.say(http::CONNECTED)?;
    wire.flush().await
}

/// Both to their end: neither may be dropped half-way.
async fn join(a: impl Future<Output = u64>, b: impl Future<Output = u64>) -> (u64, u64) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut of_a, mut of_b) = (None, None);
    poll_fn(|cx| {
        let mut go_on = |done: &mut Option<u64>, future: Pin<&mut dyn Future<Output = u64>>| {
            if done.is_none()
                && let Poll::Ready(out) = future.poll(cx)
            {
                *done = Some(out);
            }
        };
        go_on(&mut of_a, a.as_mut());
        go_on(&mut of_b, b.as_mut());
        of_a.zip(of_b).map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// `None`: nobody is there, or the client is not wanted any more.
async fn dial<H: Host>(edge: &Edge<H>, guest: &Guest<H::Stream>, target: (String, u16)) -> Option<TcpStream> {
    /// How often to look whether the relay stops meanwhile.
    const LOOK: Duration = Duration::from_millis(100);
    // Nothing of this has a buffer in the kernel: it may be dropped at any time.
    let dial = timeout(limits::CONNECT_DIAL, reach(&edge.shared.tunnels, target));
    let mut dial = pin!(dial);
    loop {
        match timeout(LOOK, dial.as_mut()).await {
            Ok(Ok(Ok(target))) => return Some(target),
            Ok(Ok(Err(error))) => {
                tracing::debug!(%error, "CONNECT: the target cannot be reached");
                return None;
            }
            Ok(Err(_)) => {
                tracing::debug!("CONNECT: the target does not answer");
                return None;
            }
            Err(_) if guest.cut().is_some() => return None,
            Err(_) => {}
        }
    }
}

async fn reach(tunnels: &Tunnels, (host, port): (String, u16)) -> io::Result<TcpStream> {
    let permit = tunnels.lookups.clone().acquire_owned().await.map_err(io::Error::other)?;
    let lookup = tunnels.lookup.clone();
    let (found, addresses) = oneshot::channel();
    // A thread that nobody waits for: the runtime's own would hold up a stop for as long as the resolver likes.
    std::thread::Builder::new().name("connect-lookup".to_owned()).spawn(move || {
        // Nobody waits any more if this fails.
        let _ = found.send(lookup(&host, port));
        drop(permit);
    })?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses.await.map_err(io::Error::other)?? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The two ends of a tunnel. Each direction has its own buffers; what both need is borrowed between awaits only.
struct Both<'a, H: Host> {
    edge: &'a Edge<H>,
    guest: &'a std::rc::Rc<Guest<H::Stream>>,
    transport: &'a RefCell<Transport>,
    target: &'a TcpStream,
}

impl<H: Host> Both<'_, H> {
    /// Client to target. Returns the bytes carried.
    async fn up(&self, (mut wire_in, mut plain): (Vec<u8>, Vec<u8>), mut closed: bool) -> u64 {
        let mut carried = 0;
        loop {
            if !plain.is_empty() {
                carried += plain.len() as u64;
                let (result, buf) = Stream::write_all(self.target, std::mem::take(&mut plain)).await;
                if result.is_err() {
                    return self.end(carried);
                }
                plain = buf;
                plain.clear();
            }
            if closed {
                Stream::shutdown(self.target, Shutdown::Write);
                return carried;
            }
            let (result, buf) = self.guest.stream.read(wire_in).await;
            wire_in = buf;
            match result {
                Ok(1..) if self.guest.cut().is_none() => {}
                Ok(0) if self.guest.cut().is_none() => closed = true,
                _ => return self.end(carried),
            }
            self.edge.guests.keep(self.guest, limits::CONNECT_IDLE);
            match self.transport.borrow_mut().open_into(&mut wire_in, &mut plain) {
                Ok(flow) => closed |= flow == Flow::Closed,
                Err(_) => return self.end(carried),
            }
        }
    }

    /// Target to client.
    async fn down(&self) -> u64 {
        let (mut carried, mut plain, mut out) = (0, Vec::new(), Vec::new());
        loop {
            plain.clear();
            let (result, buf) = Stream::read(self.target, plain).await;
            plain = buf;
            let n = match result {
                Ok(n) if self.guest.cut().is_none() => n,
                _ => return self.end(carried),
            };
            carried += n as u64;
            let sealed = match n {
                0 => {
                    self.transport.borrow_mut().farewell(None, &mut out);
                    Ok(())
                }
                _ => self.transport.borrow_mut().seal_into(&plain, &mut out),
            };
            let (result, buf) = self.guest.stream.write_all(out).await;
            out = buf;
            out.clear();
            if sealed.is_err() || result.is_err() {
                return self.end(carried);
            }
            if n == 0 {
                self.guest.stream.shutdown(Shutdown::Write);
                return carried;
            }
            self.edge.guests.keep(self.guest, limits::CONNECT_IDLE);
        }
    }

    /// One direction is broken: so is the other.
    fn end(&self, carried: u64) -> u64 {
        Stream::shutdown(self.target, Shutdown::Both);
        self.guest.stream.shutdown(Shutdown::Both);
        carried
    }
}
