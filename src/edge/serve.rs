//! One edge thread: accepts, watches deadlines, ends.

use std::cell::Cell;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustix::io::Errno;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::admit::Admission;
use super::bells::Bells;
use super::debug::Desk;
use super::guests::Guests;
use super::half_open::HalfOpen;
use super::host::Host;
use super::stats::Stats;
use super::{Live, Workers, conn};
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
    /// ServerKey alone.
    pub fast_start: Bytes,
    /// The answer to the upgrade, and ServerKey behind it in the same write.
    pub upgrade: Bytes,
}

impl Hello {
    pub fn new(keys: &Keys) -> Self {
        let frame = keys.server_key_frame();
        let mut upgrade = http::switching_protocols(&keys.public());
        upgrade.extend_from_slice(&frame);
        Self { fast_start: Bytes::copy_from_slice(&frame), upgrade: upgrade.into() }
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
    pub login_deadline: Duration,
    pub half_open: Arc<HalfOpen>,
    pub admission: Admission,
    pub workers: Arc<dyn Workers>,
    /// Listeners are shut down.
    pub stopping: AtomicBool,
    /// Connections are to end, too.
    pub closing: AtomicBool,
    pub pause_lines: Limiter,
}

impl Shared {
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
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
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
    stats: Arc<Stats>,
) {
    let mailbox = shared.half_open.mailbox(index);
    let guests = Guests::new(index, shared.half_open.clone(), stats.clone());
    let (large_logins, tasks) = (Cell::new(0), Cell::new(0));
    let edge = Rc::new(Edge { host, shared, stats, guests, bells: Bells::default(), large_logins, tasks });
    let ringing = edge.clone();
    let ringing = spawn_local(async move { ringing.bells.run(&*ringing.shared.workers).await });
    for listener in listeners {
        spawn(&edge, accept(edge.clone(), listener));
    }
    loop {
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
    spawn_local(async move {
        task.await;
        edge.tasks.set(edge.tasks.get() - 1);
        if edge.shared.is_closing() {
            edge.guests.wake();
        }
    });
}

/// One long-lived loop per listener: an accept is never raced against anything, and ends by the listener's shutdown.
async fn accept<H: Host>(edge: Rc<Edge<H>>, listener: TcpListener) {
    let listener = match edge.host.listener(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "an edge cannot use its listener"),
    };
    loop {
        match edge.host.accept(&listener).await {
            Ok((stream, peer)) => {
                edge.stats.accepts.add(1);
                spawn(&edge, conn::serve(edge.clone(), stream, peer));
                // Who is here comes before who queues outside: else a crowd would push out those in mid-login.
                yield_now().await;
            }
            Err(_) if edge.shared.stopping.load(Ordering::Acquire) => return,
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
