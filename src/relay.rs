//! Puts a relay together from its parts and runs it until it is told to stop.

mod ending;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::SystemTime;
use std::{fmt, io};

use tracing::{info, warn};

use crate::admin::{self, About, Admin};
use crate::config::{AdminAddr, Backend, Config, KeySource, TlsMode, keys};
use crate::control::logging::Control;
use crate::control::metrics::{self, Collector};
use crate::control::sockets::{Address, Open, Origin, Role, SocketFile, Sockets};
use crate::control::systemd::{Notify, PassedError};
use crate::control::takeover::{self, Desk, Giver, TakeError, Taking};
use crate::control::{cores, nofile, signals};
use crate::driver::Nanos;
use crate::driver::probe::{self, Choice};
use crate::edge::{self, EdgeConfig, Workers};
use crate::limits;
use crate::proto::http::Site;
use crate::proto::key::NodeKey;
use crate::proto::login::Keys;
use crate::tls::identity;
use crate::worker::Settings;
use crate::worker::bridge::{Event, Handover, SessionEnd};
use crate::worker::egress::Bounds;
use crate::worker::mailbox;
use crate::worker::pool::{Pool, Threads};

/// Why the relay did not start: the operator's to mend, and the text says how.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Key(#[from] keys::KeyError),
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    #[error(transparent)]
    Descriptors(#[from] nofile::NofileError),
    #[error("cannot listen on {address}: {error}{}", hint(.error))]
    Listen { address: SocketAddr, error: io::Error },
    #[error("cannot listen on {address}: this listener does not take sockets of that kind")]
    ListenKind { address: String },
    #[error(transparent)]
    Passed(#[from] PassedError),
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error("a socket that the running relay gave cannot be used: {0}")]
    Given(io::Error),
    #[error("cannot listen for a takeover on {path}: {error}{}", takeover_hint(.error))]
    TakeoverSocket { path: String, error: io::Error },
    #[error(transparent)]
    AdminListen(#[from] admin::ListenError),
    #[error("cannot start the admin thread: {0}")]
    Admin(io::Error),
    #[error("--backend uring: io_uring does not work here: {0}")]
    Uring(String),
    #[error("cannot start the workers: {0}")]
    Workers(io::Error),
    #[error(transparent)]
    Edge(#[from] edge::StartError),
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has this port: stop it, or give another --listen address",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in systemd), or give a higher port"
        }
        io::ErrorKind::AddrNotAvailable => "; this host does not have that address",
        _ => "",
    }
}

fn takeover_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; a relay runs with this --takeover-socket: take over from it with --takeover, or give another path"
        }
        io::ErrorKind::AlreadyExists => "; a file that is no socket has that name: move it, or give another path",
        io::ErrorKind::NotFound => "; its directory is not there: make it, or give another path",
        io::ErrorKind::PermissionDenied => "; this user may not make files there",
        _ => "",
    }
}

/// Runs the relay; returns after an orderly stop.
///
/// # Errors
/// Anything that keeps it from starting.
pub fn run(config: Config, log: &Control) -> Result<(), StartError> {
    let (order, orders) = mpsc::channel();
    // The first signal begins a drain if there is to be one, and whoever drains already has had it.
    let hurries = Arc::new(AtomicBool::new(!config.drain_time.is_zero()));
    let (stop, steps) = (order.clone(), hurries.clone());
    signals::spawn(move || {
        let _ = stop.send(Order::Stop);
        if steps.swap(false, Ordering::AcqRel) { signals::Next::Hurries } else { signals::Next::Kills }
    })
    .map_err(StartError::Signals)?;
    let relay = Relay::start(config, log, move |successor| {
        hurries.store(false, Ordering::Release);
        let _ = order.send(Order::Succeeded(successor));
    })?;
    // The sender lives as long as the signal thread.
    let first = orders.recv().unwrap_or(Order::Stop);
    relay.end(first, &orders);
    Ok(())
}

/// Why a relay ends.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Stop,
    /// Another one has the listening sockets.
    Succeeded(takeover::Successor),
}

/// A relay that runs.
pub struct Relay {
    config: Config,
    edge: edge::EdgeHandle,
    admin: Admin,
    crew: Arc<Crew>,
    threads: Threads,
    addresses: Vec<SocketAddr>,
    /// Listening sockets, to give away.
    open: Arc<Open>,
    giver: Option<Giver>,
    notify: Notify,
}

impl Relay {
    /// # Errors
    /// Anything that keeps it from starting.
    pub fn start(
        config: Config,
        log: &Control,
        succeeded: impl FnOnce(takeover::Successor) + Send + 'static,
    ) -> Result<Self, StartError> {
        let started = SystemTime::now();
        let key = match &config.key {
            KeySource::Ephemeral => keys::generate()?,
            KeySource::File(path) => keys::load_or_create(path)?,
        };
        let public = key.public();
        let tls = identity::load(&config.tls, &public.0)?;
        let cores = cores::usable();
        let workers = config.workers.unwrap_or(cores.usable);
        let edges = config.edges.unwrap_or(workers.div_ceil(4));
        let max_clients = nofile::prepare(config.max_clients, workers, edges)?;
        let notify = Notify::from_environment();
        let mut sockets = Sockets::inherited()?;
        let taking = take(&config, &mut sockets, &public)?;
        let listeners = listen(&mut sockets, &config)?;
        let doors = doors(&mut sockets, &config.admin.listen)?;
        let desk = desk(&mut sockets, &config)?;
        let open = Arc::new(sockets.finish()?);
        let admin_addresses: Vec<_> = doors.iter().map(admin::Door::address).collect();
        let addresses: Vec<_> = listeners.iter().filter_map(|l| l.local_addr().ok()).collect();
        let choice = choose(config.backend)?;
        let budget = Budget::of_this_host(workers);
        let settings = Settings {
            bounds: Bounds {
                packets: config.queue.packets,
                bytes: config.queue.bytes,
                packets_min: limits::QUEUE_PACKETS_MIN,
            },
            chunks_max: budget.chunks_per_worker(),
            run_bytes: limits::RUN_BYTES,
            write_timeout: config.tcp.write_timeout,
            moves: config.moves,
            busy_poll: config.busy_poll,
            server_key: public,
            seed: u64::from_ne_bytes(first_eight(&public)),
        };
        let (pool, threads) = Pool::start(workers, &cores.cpus, &choice, &settings).map_err(StartError::Workers)?;
        let crew = Arc::new(Crew { pool });
        let memory_at_start = metrics::resident_bytes();
        let mut edge_config = EdgeConfig::new(listeners, Arc::new(Keys::new(*key.as_bytes())));
        edge_config.open = false;
        edge_config.tls = tls;
        edge_config.mesh_key = config.mesh_key.as_ref().map(|k| k.0);
        edge_config.live = live(&config, max_clients);
        let (debug, questions) = tokio::sync::mpsc::channel(limits::DEBUG_QUESTIONS);
        edge_config.desk = Some(debug);
        edge_config.edges = edges;
        edge_config.use_uring = match &choice {
            Choice::Uring { .. } => Ok(()),
            Choice::Epoll { why } => Err(why.clone()),
        };
        let edge = edge::start(edge_config, crew.clone())?;
        let pool = crew.pool.clone();
        let sources = metrics::Sources {
            workers: crew.pool.stats().clone(),
            edges: edge.stats().clone(),
            inboxes: Arc::new(move |worker| pool.inbox_depth(worker)),
            limits: metrics::Limits {
                max_clients: max_clients as u64,
                half_open: limits::HALF_OPEN_MAX as u64,
                inbox_chains: mailbox::INBOX_CHAINS as u64,
                queue_memory: budget.per_worker,
                acquaintances: limits::ACQUAINTANCES_MAX as u64,
                descriptors: nofile::limit(),
            },
            build: metrics::Build {
                version: env!("CARGO_PKG_VERSION"),
                backend: if matches!(choice, Choice::Uring { .. }) { "io_uring" } else { "epoll" },
                edge_backend: if matches!(edge.backend(), edge::Backend::Uring) { "io_uring" } else { "epoll" },
                tls: !matches!(config.tls, TlsMode::None),
            },
            started,
            memory_at_start,
        };
        let parts = admin::Parts {
            about: About {
                machine: machine(),
                hostname: config.tls.hostname().map(str::to_owned),
                mesh_key: config.mesh_key.is_some(),
                backend: if matches!(choice, Choice::Uring { .. }) { "io_uring" } else { "epoll" }.to_owned(),
                workers,
                edges,
                max_clients,
                listening: addresses.clone(),
                public_key: public.to_string(),
            },
            access: config.admin.clone(),
            debug_key: config.debug_on_main.as_ref().and_then(|access| access.key_file.clone()),
            collector: Collector::new(sources),
            workers: crew.pool.clone(),
            edges: edge.stats().clone(),
            log: log.clone(),
        };
        let admin = Admin::start(parts, doors, questions).map_err(StartError::Admin)?;
        // Nothing can fail behind this.
        if let Some(taking) = &taking {
            taking.ready()?;
        }
        edge.open();
        admin.open();
        if let Some(taking) = taking {
            taking.open();
        }
        let giver = desk.and_then(|(listener, file)| {
            let desk = Desk { listener, file, sockets: open.clone(), public_key: public.to_string() };
            let started = Giver::start(desk, succeeded);
            started
                .inspect_err(|error| warn!(%error, "no thread for takeovers: this relay gives its sockets to nobody"))
                .ok()
        });
        leave_with_systemd(&notify, &open);
        notify.ready();
        let block = StartBlock {
            addresses: &addresses,
            admin: &admin_addresses,
            tls: !matches!(config.tls, TlsMode::None),
            choice: &choice,
            edge: edge.backend(),
            workers,
            edges,
            public: &public,
            budget: &budget,
            max_clients,
        };
        eprintln!("{block}");
        Ok(Self { config, edge, admin, crew, threads, addresses, open, giver, notify })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn live(config: &Config, max_clients: usize) -> edge::Live {
    edge::Live {
        site: Site { home: config.home.clone(), debug: config.debug_on_main.clone(), derp: config.derp },
        trusted_proxies: config.trusted_proxies.clone(),
        accept_limit: config.accept_limit,
        max_clients: Some(max_clients),
        max_clients_per_ip: config.max_clients_per_ip,
    }
}

/// The workers as the edge sees them.
struct Crew {
    pool: Arc<Pool>,
}

impl Workers for Crew {
    fn place(&self, _: &NodeKey) -> usize {
        self.pool.place()
    }

    fn adopt(&self, worker: usize, handover: Box<Handover>) -> Result<(), Box<Handover>> {
        let identity = handover.identity;
        self.pool.adopt(worker, handover)?;
        info!(
            peer = %identity.key,
            address = identity.address.map(tracing::field::display),
            worker,
            mesh = identity.mesh,
            "peer logged in"
        );
        Ok(())
    }

    fn ring(&self, worker: usize) {
        self.pool.ring(worker);
    }

    fn pop_event(&self) -> Option<Event> {
        let event = self.pool.pop_event()?;
        let Event::Closed(end) = &event;
        log_end(end);
        Some(event)
    }
}

fn log_end(end: &SessionEnd) {
    let t = end.totals;
    info!(
        peer = %end.identity.key,
        address = end.identity.address.map(tracing::field::display),
        reason = %end.reason,
        seconds = end.lived.as_secs(),
        packets_in = t.packets_in,
        bytes_in = t.bytes_in,
        packets_out = t.packets_out,
        bytes_out = t.bytes_out,
        dropped = t.dropped(),
        "peer left"
    );
}

/// io_uring if it works, or what the operator insists on.
fn choose(backend: Backend) -> Result<Choice, StartError> {
    match backend {
        Backend::Epoll => Ok(Choice::Epoll { why: "--backend epoll".into() }),
        Backend::Uring => probe::uring().map_err(StartError::Uring),
        Backend::Auto => Ok(probe::uring().unwrap_or_else(|why| Choice::Epoll { why })),
    }
}

/// Asks the relay that runs for its sockets, if that is wanted.
fn take(config: &Config, sockets: &mut Sockets, public: &NodeKey) -> Result<Option<Taking>, StartError> {
    if !config.takeover.take {
        return Ok(None);
    }
    let mut taking = takeover::ask(config.takeover.socket.as_deref())?;
    if taking.public_key != public.to_string() {
        let (theirs, ours) = (&taking.public_key, public);
        warn!(%theirs, %ours, "the running relay has another key: clients that pin it will not come back");
    }
    for (role, socket) in taking.sockets.drain(..) {
        sockets.give(role, socket).map_err(StartError::Given)?;
    }
    Ok(Some(taking))
}

/// One socket for each address. No SO_REUSEPORT: a second relay on the same port must be an error.
fn listen(sockets: &mut Sockets, config: &Config) -> Result<Vec<TcpListener>, StartError> {
    let tcp = &config.tcp;
    let addresses = sockets.addresses(Role::Main, &config.listen);
    let open = |address| match address {
        Address::Tcp(address) => sockets
            .tcp(Role::Main, address, |socket| edge::set_options(socket, tcp))
            .map_err(|error| StartError::Listen { address, error }),
        Address::Udp(address) => Err(StartError::ListenKind { address: format!("UDP {address}") }),
        Address::Unix(path) => Err(StartError::ListenKind { address: format!("unix:{}", path.display()) }),
    };
    addresses.into_iter().map(open).collect()
}

fn doors(sockets: &mut Sockets, configured: &[AdminAddr]) -> Result<Vec<admin::Door>, StartError> {
    let addresses = sockets.addresses(Role::Admin, configured);
    let open = |address| match address {
        Address::Tcp(address) => Ok(admin::open(sockets, &AdminAddr::Tcp(address))?),
        Address::Unix(path) => Ok(admin::open(sockets, &AdminAddr::Unix(path))?),
        Address::Udp(address) => Err(StartError::ListenKind { address: format!("UDP {address}") }),
    };
    addresses.into_iter().map(open).collect()
}

/// Where the next relay asks.
fn desk(sockets: &mut Sockets, config: &Config) -> Result<Option<(UnixListener, SocketFile)>, StartError> {
    let Some(path) = &config.takeover.socket else { return Ok(None) };
    let opened = sockets.unix(Role::Takeover, path, &takeover::KIND);
    opened.map(Some).map_err(|error| StartError::TakeoverSocket { path: path.display().to_string(), error })
}

/// systemd keeps the listening sockets over a restart, if its unit says so: then none of those who connect meanwhile
/// is refused.
fn leave_with_systemd(notify: &Notify, open: &Open) {
    for role in open.own() {
        notify.forget(role.name());
    }
    if !notify.is_somewhere() {
        return;
    }
    let kept = open.each(|role, socket, origin| {
        // Those of its .socket units it keeps anyway.
        if origin != Origin::Passed {
            notify.store(role.name(), socket);
        }
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(()) = kept;
    open.share();
}

/// Memory that queues may take, out of what the host has.
struct Budget {
    per_worker: u64,
    workers: usize,
}

impl Budget {
    /// An eighth of the memory in all, within bounds that make sense for one core.
    fn of_this_host(workers: usize) -> Self {
        const MOST: u64 = 1 << 30;
        const LEAST: u64 = 64 << 20;
        let info = rustix::system::sysinfo();
        #[expect(clippy::useless_conversion, reason = "the width depends on the architecture")]
        let total = u64::from(info.totalram) * u64::from(info.mem_unit);
        Self { per_worker: (total / 8 / workers as u64).clamp(LEAST, MOST), workers }
    }

    fn chunks_per_worker(&self) -> usize {
        (self.per_worker as usize) / size_of::<crate::mem::chunk::Chunk>()
    }
}

/// What the operator sees first.
struct StartBlock<'a> {
    addresses: &'a [SocketAddr],
    admin: &'a [AdminAddr],
    tls: bool,
    choice: &'a Choice,
    edge: &'a edge::Backend,
    workers: usize,
    edges: usize,
    public: &'a NodeKey,
    budget: &'a Budget,
    max_clients: usize,
}

impl fmt::Display for StartBlock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "derpring {}", env!("CARGO_PKG_VERSION"))?;
        for address in self.addresses {
            let scheme = if self.tls { "https" } else { "http" };
            writeln!(f, "  listening   {scheme}://{address}/derp")?;
        }
        for address in self.admin {
            writeln!(f, "  admin       {address}")?;
        }
        match self.choice {
            Choice::Uring { incremental: true } => writeln!(f, "  backend     io_uring")?,
            Choice::Uring { incremental: false } => {
                writeln!(f, "  backend     io_uring (this kernel takes a whole buffer per receive)")?;
            }
            Choice::Epoll { why } => writeln!(f, "  backend     epoll: {why}")?,
        }
        if let (edge::Backend::Tokio(why), Choice::Uring { .. }) = (self.edge, self.choice) {
            writeln!(f, "  edge        tokio's own sockets: {why}")?;
        }
        writeln!(f, "  threads     {} workers, {} edges", self.workers, self.edges)?;
        writeln!(f, "  public key  {}", self.public)?;
        let total = self.budget.per_worker * self.budget.workers as u64;
        writeln!(
            f,
            "  memory      queues up to {} MiB in all, {} MiB per worker",
            total >> 20,
            self.budget.per_worker >> 20
        )?;
        write!(f, "  clients     up to {}", self.max_clients)
    }
}

/// The name of this host.
fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn first_eight(key: &NodeKey) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&key.0[..8]);
    out
}

// Timers and stamps count nanoseconds in 64 bits: enough for five centuries of uptime.
const _: () = assert!(size_of::<Nanos>() == 8);

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;
    use crate::config::TcpOptions;

    /// Clients connect while the relay is still starting, above all when it has just been restarted.
    #[test]
    fn connections_that_came_before_anybody_accepts_have_their_options() {
        let tcp = TcpOptions {
            write_timeout: Duration::from_secs(2),
            user_timeout: Duration::from_secs(15),
            keepalive_time: Duration::from_secs(600),
        };
        let address = "127.0.0.1:0".parse().unwrap();
        let prepare = |socket: SockRef<'_>| edge::set_options(socket, &tcp);
        let listener = Sockets::default().tcp(Role::Main, address, prepare).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(15)));
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(600));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
    }
}
