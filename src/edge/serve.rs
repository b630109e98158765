//! One edge thread: accepts, watches deadlines, ends.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustix::io::Errno;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::accept_limit::Gate;
use super::admit::Admission;
use super::bells::Bells;
use super::connect::Tunnels;
use super::debug::Desk;
use super::entrance::Entrance;
use super::guests::Guests;
use super::half_open::HalfOpen;
use super::host::Host;
use super::stats::Stats;
use super::{Live, Workers, conn};
use crate::control::bootstrap_dns;
use crate::control::logging::Limiter;
use crate::limits;
use crate::proto::http;
use crate::proto::login::Keys;
use crate::stats::CloseReason;
use crate::tls::identity::Certificates;

/// How often places of ended sessions are taken back when nobody logs in.
const TICK: Duration = Duration::from_secs(1);

/// The first thing that a client is sent, the same for all: made once, shared by all edges.
pub(super) struct Hello {
    pub server_key: Bytes,
    /// The answer to the upgrade, and ServerKey behind it in the same write.
    pub upgrade: Bytes,
}

impl Hello {
    pub fn new(keys: &Keys) -> Self {
        let frame = keys.server_key_frame();
        let mut upgrade = http::switching_protocols(&keys.public());
        upgrade.extend_from_slice(&frame);
        Self { server_key: Bytes::copy_from_slice(&frame), upgrade: upgrade.into() }
    }
}

/// What all edges have in common.
pub(super) struct Shared {
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub certificates: Option<Certificates>,
    pub keys: Arc<Keys>,
    pub hello: Hello,
    pub mesh_key: Option<[u8; 32]>,
    /// Read anew by each request.
    pub live: ArcSwap<Live>,
    /// Where the pages under `/debug/` are made.
    pub desk: Option<Desk>,
    /// Who knows the answers to challenges of ACME.
    pub challenges: Option<Arc<dyn http::Challenges>>,
    pub bootstrap_dns: Arc<bootstrap_dns::Table>,
    pub tunnels: Tunnels,
    pub login_deadline: Duration,
    pub half_open: Arc<HalfOpen>,
    pub accept_limit: Gate,
    pub admission: Admission,
    pub workers: Arc<dyn Workers>,
    /// Connections may come.
    pub open: AtomicBool,
    /// Nobody new comes in; whoever is in may finish.
    pub stopping: AtomicBool,
    /// Connections are to end, too.
    pub closing: AtomicBool,
    /// Tasks of all edges: those that accept, and connections that have not gone to a worker.
    pub tasks: AtomicUsize,
    pub pause_lines: Limiter,
    pub proxy_lines: Limiter,
}

impl Shared {
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Whether somebody is believed about who is behind him.
    pub fn trusts(&self, peer: Option<SocketAddr>) -> bool {
        self.live.load().trusted_proxies.trusts(peer.map(|peer| peer.ip()))
    }
}

pub(super) struct Edge<H: Host> {
    pub host: H,
    pub shared: Arc<Shared>,
    pub stats: Arc<Stats>,
    pub guests: Guests<H::Stream>,
    pub bells: Bells,
    large_logins: Cell<u32>,
    /// Tasks that have not ended.
    tasks: Cell<usize>,
}

impl<H: Host> Edge<H> {
    /// Leave to take in a ClientInfo of unusual size.
    pub fn large_login(&self) -> Option<LargeLogin<'_>> {
        let taken = self.large_logins.get();
        (taken < limits::LARGE_CLIENT_INFOS).then(|| {
            self.large_logins.set(taken + 1);
            LargeLogin(&self.large_logins)
        })
    }
}

pub(super) struct LargeLogin<'a>(&'a Cell<u32>);

impl Drop for LargeLogin<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Runs until `shared` says that it is closing and every connection has ended.
pub(super) async fn run<H: Host>(
    index: usize,
    host: H,
    entrances: Vec<Entrance>,
    shared: Arc<Shared>,
    stats: Arc<Stats>,
) {
    let mailbox = shared.half_open.mailbox(index);
    let guests = Guests::new(index, shared.half_open.clone(), stats.clone());
    let (large_logins, tasks) = (Cell::new(0), Cell::new(0));
    let edge = Rc::new(Edge { host, shared, stats, guests, bells: Bells::default(), large_logins, tasks });
    let ringing = edge.clone();
    let ringing = spawn_local(async move { ringing.bells.run(&*ringing.shared.workers).await });
    let (mut waiting, mut listening) = (entrances, Vec::new());
    loop {
        if edge.shared.is_stopping() {
            waiting.clear();
            listening.drain(..).for_each(|listener: Rc<H::Listener>| edge.host.close(&listener));
        } else if edge.shared.open.load(Ordering::Acquire) {
            listening.extend(waiting.drain(..).filter_map(|entrance| begin_to_accept(&edge, entrance)));
        }
        if edge.shared.is_closing() {
            edge.guests.cut_all(CloseReason::Shutdown);
            if edge.tasks.get() == 0 {
                ringing.abort();
                edge.bells.ring(&*edge.shared.workers);
                return;
            }
        }
        let now = Instant::now();
        let next = edge.guests.sweep(now).unwrap_or(now + TICK).min(now + TICK);
        edge.shared.admission.settle(&*edge.shared.workers);
        // Either way the next turn looks at everything.
        let _ = timeout_at(next, mailbox.wake.notified()).await;
    }
}

fn spawn<H: Host>(edge: &Rc<Edge<H>>, task: impl Future<Output = ()> + 'static) {
    let edge = edge.clone();
    edge.tasks.set(edge.tasks.get() + 1);
    edge.shared.tasks.fetch_add(1, Ordering::Relaxed);
    spawn_local(async move {
        task.await;
        edge.tasks.set(edge.tasks.get() - 1);
        edge.shared.tasks.fetch_sub(1, Ordering::Release);
        if edge.shared.is_closing() {
            edge.guests.wake();
        }
    });
}

fn begin_to_accept<H: Host>(edge: &Rc<Edge<H>>, entrance: Entrance) -> Option<Rc<H::Listener>> {
    let beside = entrance.beside;
    match edge.host.listener(entrance.socket) {
        Ok(listener) => {
            let listener = Rc::new(listener);
            spawn(edge, accept(edge.clone(), listener.clone(), beside));
            Some(listener)
        }
        Err(error) => {
            tracing::error!(%error, "an edge cannot use its listener");
            None
        }
    }
}

/// One long-lived loop per listener. It ends when the listener is closed, which may be after one connection more.
/// `beside`: plain HTTP beside TLS, which has no limit of its own.
async fn accept<H: Host>(edge: Rc<Edge<H>>, listener: Rc<H::Listener>, beside: bool) {
    loop {
        match edge.host.accept(&listener).await {
            Ok((stream, peer)) => {
                edge.stats.accepts.add(1);
                let limit = edge.shared.live.load().accept_limit.filter(|_| !beside);
                if edge.shared.accept_limit.lets_in(limit, Instant::now().into()) {
                    spawn(&edge, conn::serve(edge.clone(), stream, peer, beside));
                } else {
                    edge.stats.count_close(CloseReason::AcceptLimit);
                    drop(stream);
                }
                if edge.shared.is_stopping() {
                    return;
                }
                // Who is here comes before who queues outside: else a crowd would push out those in mid-login.
                yield_now().await;
            }
            Err(_) if edge.shared.is_stopping() => return,
            Err(error) => {
                if no_descriptors(&error) {
                    edge.stats.accept_paused.set(1);
                    log_pause(&edge.shared, &error);
                } else {
                    tracing::debug!(%error, "accept failed");
                }
                // Sessions go on meanwhile, and newcomers wait in the listen queue.
                sleep(limits::ACCEPT_PAUSE).await;
                edge.stats.accept_paused.set(0);
            }
        }
    }
}

fn no_descriptors(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

fn log_pause(shared: &Shared, error: &io::Error) {
    if let Some(left_out) = shared.pause_lines.pass() {
        let what = "no descriptors left: accepting rests until some are free; raise their limit";
        tracing::warn!(%error, left_out, "{what}");
    }
}
