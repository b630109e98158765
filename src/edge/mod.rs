//! The edge: everything that happens to a connection before a worker owns it.
//!
//! Threads that all accept from the same sockets, each with its own single-threaded runtime: tokio-uring where
//! io_uring is allowed, plain tokio elsewhere. A stranger costs one bounded place and a deadline.

mod accept_limit;
mod admit;
mod bells;
mod bootstrap;
mod conn;
pub mod connect;
pub mod debug;
mod entrance;
mod guests;
mod half_open;
mod host;
mod proxied;
mod serve;
mod stats;
mod stream_tokio;
mod stream_uring;
mod wire;

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::{SockRef, TcpKeepalive};

use crate::config::{AcceptLimit, HomePage, TcpOptions, TrustedProxies};
use crate::control::bootstrap_dns;
use crate::control::logging::Limiter;
use crate::limits;
use crate::proto::http::{Challenges, Site};
use crate::proto::key::NodeKey;
use crate::proto::login::Keys;
use crate::tls::identity::Certificates;
use crate::worker::bridge::{Event, Handover};
use admit::Admission;
use connect::{Lookup, Tunnels};
use debug::Desk;
use entrance::Entrance;
use half_open::HalfOpen;
use serve::{Hello, Shared};
pub use stats::Stats;

/// The workers, as the edge sees them. Called from every edge thread; nothing here may block.
pub trait Workers: Send + Sync {
    /// Which worker is to own a session of this key.
    fn place(&self, key: &NodeKey) -> usize;

    /// Hands over; the worker need not look before it is [rung](Self::ring).
    ///
    /// # Errors
    /// The worker's queue is full; the edge tries again a little later.
    fn adopt(&self, worker: usize, handover: Box<Handover>) -> Result<(), Box<Handover>>;

    /// Wakes a worker for all that it was handed.
    fn ring(&self, worker: usize);

    fn pop_event(&self) -> Option<Event>;
}

/// What may change while the relay runs.
#[derive(Clone, Debug)]
pub struct Live {
    pub site: Site,
    /// Proxies that are believed about a client's address.
    pub trusted_proxies: TrustedProxies,
    /// New connections that are let in.
    pub accept_limit: Option<AcceptLimit>,
    pub max_clients: Option<usize>,
    pub max_clients_per_ip: Option<usize>,
}

pub struct EdgeConfig {
    /// Bound and listening. Every edge accepts from all of them.
    pub listeners: Vec<TcpListener>,
    /// The same, in the file system. What they serve is what `listeners` serve.
    pub unix: Vec<UnixListener>,
    /// Plain HTTP beside TLS.
    pub http: Vec<TcpListener>,
    /// Whether it accepts at once, and not only when it is [opened](EdgeHandle::open).
    pub open: bool,
    /// `None`: plain HTTP. Must allow secrets to be extracted.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Where `tls` is not the whole answer: challenges of authorities, certificates by address.
    pub certificates: Option<Certificates>,
    pub keys: Arc<Keys>,
    pub mesh_key: Option<[u8; 32]>,
    pub live: Live,
    /// Who makes the pages of `/debug/`.
    pub desk: Option<Desk>,
    /// Who asks for certificates, and is asked over plain HTTP whether it did.
    pub challenges: Option<Arc<dyn Challenges>>,
    /// What `/bootstrap-dns` tells.
    pub bootstrap_dns: Arc<bootstrap_dns::Table>,
    /// Who finds the targets of CONNECT.
    pub lookup: Lookup,
    /// Number of threads; at least one.
    pub edges: usize,
    /// Why io_uring must not be used, if so.
    pub use_uring: Result<(), String>,
    pub login_deadline: Duration,
    pub half_open_max: usize,
    pub half_open_max_per_ip: usize,
}

impl EdgeConfig {
    /// One edge in plain HTTP, with the limits of [`limits`] and nothing optional.
    pub fn new(listeners: Vec<TcpListener>, keys: Arc<Keys>) -> Self {
        Self {
            listeners,
            unix: Vec::new(),
            http: Vec::new(),
            open: true,
            tls: None,
            certificates: None,
            keys,
            mesh_key: None,
            live: Live {
                site: Site { home: HomePage::Default, debug: None, derp: true, connect: false, tailscales: false },
                trusted_proxies: TrustedProxies::default(),
                accept_limit: None,
                max_clients: None,
                max_clients_per_ip: None,
            },
            desk: None,
            challenges: None,
            bootstrap_dns: bootstrap_dns::Table::empty(),
            lookup: connect::system(),
            edges: 1,
            use_uring: Ok(()),
            login_deadline: limits::LOGIN_DEADLINE,
            half_open_max: limits::HALF_OPEN_MAX,
            half_open_max_per_ip: limits::HALF_OPEN_MAX_PER_IP,
        }
    }
}

/// Why the edge cannot start. Ours or the operator's doing.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the TLS configuration does not allow secrets to be extracted")]
    SecretsLocked,
    #[error("cannot prepare a listener: {0}")]
    Listener(io::Error),
    #[error("cannot start an edge thread: {0}")]
    Thread(io::Error),
}

/// What drives the edge's sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    Uring,
    /// With the reason why not io_uring.
    Tokio(String),
}

/// # Errors
/// Nothing has been accepted then.
pub fn start(config: EdgeConfig, workers: Arc<dyn Workers>) -> Result<EdgeHandle, StartError> {
    if config.tls.as_ref().is_some_and(|tls| !tls.enable_secret_extraction) {
        return Err(StartError::SecretsLocked);
    }
    let edges = config.edges.max(1);
    let half_open = HalfOpen::new(config.half_open_max, config.half_open_max_per_ip, edges);
    let shared = Arc::new(Shared {
        tls: config.tls,
        certificates: config.certificates,
        hello: Hello::new(&config.keys),
        keys: config.keys,
        mesh_key: config.mesh_key,
        live: ArcSwap::from_pointee(config.live),
        desk: config.desk,
        challenges: config.challenges,
        bootstrap_dns: config.bootstrap_dns,
        tunnels: Tunnels::new(config.lookup),
        login_deadline: config.login_deadline,
        half_open: Arc::new(half_open),
        accept_limit: accept_limit::Gate::default(),
        admission: Admission::default(),
        workers,
        open: AtomicBool::new(config.open),
        stopping: AtomicBool::new(false),
        tasks: AtomicUsize::new(0),
        closing: AtomicBool::new(false),
        pause_lines: Limiter::new(limits::ACCEPT_PAUSE_LOG),
        proxy_lines: Limiter::new(limits::UNTRUSTED_PROXY_LOG),
    });
    let stats: Arc<[Arc<Stats>]> = (0..edges).map(|_| Arc::default()).collect();
    let entrances = Entrance::all(config.listeners, config.unix, config.http);
    let crew = Crew { entrances: &entrances, shared: &shared, stats: &stats };
    let uring = config.use_uring.and_then(|()| stream_uring::probe()).and_then(|()| {
        // The probe cannot know whether there is room for all the rings.
        crew.start(true).map_err(|error| error.to_string())
    });
    let (backend, threads) = match uring {
        Ok(threads) => (Backend::Uring, threads),
        Err(reason) => (Backend::Tokio(reason), crew.start(false)?),
    };
    Ok(EdgeHandle { shared, stats, backend, threads })
}

/// Prepares a socket that is about to listen. Accepted sockets inherit all of this, at no cost per connection; those
/// that come before it is set do not, and after a restart they are many.
///
/// # Errors
/// The system refuses an option.
pub fn set_options(socket: SockRef<'_>, tcp: &TcpOptions) -> io::Result<()> {
    const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
    const KEEPALIVE_COUNT: u32 = 9;
    socket.set_tcp_nodelay(true)?;
    if !tcp.user_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(tcp.user_timeout))?;
    }
    if !tcp.keepalive_time.is_zero() {
        let keepalive = TcpKeepalive::new().with_time(tcp.keepalive_time);
        socket.set_tcp_keepalive(&keepalive.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_COUNT))?;
    }
    Ok(())
}

struct Crew<'a> {
    entrances: &'a [Entrance],
    shared: &'a Arc<Shared>,
    stats: &'a [Arc<Stats>],
}

impl Crew<'_> {
    /// All edges or none: those that are ready wait for the others, and leave when one cannot start.
    fn start(&self, uring: bool) -> Result<Vec<JoinHandle<()>>, StartError> {
        let (ready_tx, ready) = mpsc::channel();
        let mut going = Vec::new();
        let mut threads = Vec::new();
        for (index, stats) in self.stats.iter().enumerate() {
            let entrances: io::Result<Vec<_>> = self.entrances.iter().map(Entrance::share).collect();
            let entrances = entrances.map_err(StartError::Listener)?;
            let (shared, stats, ready_tx) = (self.shared.clone(), stats.clone(), ready_tx.clone());
            let (go, gone) = mpsc::channel();
            going.push(go);
            let main = move || {
                be_nice();
                if uring {
                    let made = stream_uring::Runtime::new().map(|runtime| (runtime, stream_uring::Uring::new()));
                    let Some((runtime, host)) = await_start(made, &ready_tx, &gone) else { return };
                    runtime.run(serve::run(index, host, entrances, shared, stats));
                } else {
                    let Some(runtime) = await_start(stream_tokio::Runtime::new(), &ready_tx, &gone) else { return };
                    runtime.run(serve::run(index, stream_tokio::Tokio, entrances, shared, stats));
                }
            };
            let thread = std::thread::Builder::new().name(format!("edge-{index}")).spawn(main);
            threads.push(thread.map_err(StartError::Thread)?);
        }
        for _ in &threads {
            match ready.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(StartError::Thread(error)),
                Err(_) => return Err(StartError::Thread(io::Error::other("it ended at once"))),
            }
        }
        for go in going {
            // It waits for this and for nothing else.
            let _ = go.send(());
        }
        Ok(threads)
    }
}

/// `None`: this edge or another one cannot start.
fn await_start<R>(made: io::Result<R>, ready: &mpsc::Sender<io::Result<()>>, go: &mpsc::Receiver<()>) -> Option<R> {
    let (made, result) = match made {
        Ok(made) => (Some(made), Ok(())),
        Err(error) => (None, Err(error)),
    };
    ready.send(result).ok()?;
    go.recv().ok()?;
    made
}

/// A storm of logins must not take a core from a worker. Allowed to everybody, and no reason to fail.
pub(crate) fn be_nice() {
    const STEP: i32 = 5;
    if let Ok(now) = rustix::process::getpriority_process(None) {
        // Linux has a priority per thread, and "this process" means the calling thread.
        let _ = rustix::process::setpriority_process(None, now + STEP);
    }
}

/// The running edge.
pub struct EdgeHandle {
    shared: Arc<Shared>,
    stats: Arc<[Arc<Stats>]>,
    backend: Backend,
    threads: Vec<JoinHandle<()>>,
}

impl EdgeHandle {
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// One for each edge.
    pub fn stats(&self) -> &Arc<[Arc<Stats>]> {
        &self.stats
    }

    /// For whoever changes it while it runs.
    pub fn reins(&self) -> Reins {
        Reins { shared: Arc::clone(&self.shared) }
    }

    /// Begins to accept, if it was started without.
    pub fn open(&self) {
        self.shared.open.store(true, Ordering::Release);
        self.shared.half_open.wake_all();
    }

    /// From here on nobody new comes in: each edge lets go of its listeners, which are as they were for whoever else
    /// has them. Connections that are in may finish, until their deadline; HTTP is told that each answer is the last.
    pub fn stop_accepting(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.half_open.wake_all();
    }

    /// Ends every connection that has not gone to a worker.
    pub fn cut_logins(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.half_open.wake_all();
    }

    /// Whether nobody accepts any more, and every connection has ended or gone to a worker.
    pub fn is_quiet(&self) -> bool {
        self.shared.is_stopping() && self.shared.tasks.load(Ordering::Acquire) == 0
    }

    /// Ends every connection that has not gone to a worker, and the threads.
    pub fn join(self) {
        self.stop_accepting();
        self.cut_logins();
        for thread in self.threads {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Changes a running edge.
pub struct Reins {
    shared: Arc<Shared>,
}

impl Reins {
    /// Connections, requests and logins from now on are judged by this; whoever is in stays.
    pub fn reconfigure(&self, live: Live) {
        self.shared.live.store(Arc::new(live));
    }
}
