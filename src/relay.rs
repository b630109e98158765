//! Puts a relay together from its parts and runs it until it is told to stop.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, io};

use tracing::info;

use crate::admin::{self, About, Admin};
use crate::config::{AdminAddr, Backend, Config, KeySource, ListenAddr, TcpOptions, TlsMode, keys};
use crate::control::bootstrap_dns;
use crate::control::logging::Control;
use crate::control::metrics::{self, Collector};
use crate::control::sockets::{self, SocketFile};
use crate::control::{cores, nofile, signals};
use crate::driver::Nanos;
use crate::driver::probe::{self, Choice};
use crate::edge::{self, EdgeConfig, Workers};
use crate::limits;
use crate::proto::http::{self, Site};
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
    #[error("cannot listen on {address}: {error}{}", hint(address, .error))]
    Listen { address: ListenAddr, error: io::Error },
    #[error("cannot listen on {address} for plain HTTP: {error}{}; {HTTP_OFF}", tcp_hint(.error))]
    Http { address: SocketAddr, error: io::Error },
    #[error("cannot start the thread of /bootstrap-dns: {0}")]
    BootstrapDns(io::Error),
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

const HTTP_OFF: &str = "--http-listen \"\" turns it off, -http-port=-1 for derper's command line";

fn hint(address: &ListenAddr, error: &io::Error) -> String {
    if let ListenAddr::Unix(_) = address {
        return sockets::unix_hint(error, "--listen");
    }
    tcp_hint(error).to_owned()
}

fn tcp_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has this port: stop it, or give another address",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in systemd), or give a higher port"
        }
        io::ErrorKind::AddrNotAvailable => "; this host does not have that address",
        _ => "",
    }
}

/// Reconnects after a restart are spread over this time, so that a region's clients do not come back at once.
const RECONNECT_SPREAD: Duration = Duration::from_secs(10);

/// Runs the relay; returns after an orderly stop.
///
/// # Errors
/// Anything that keeps it from starting.
pub fn run(config: Config, log: &Control) -> Result<(), StartError> {
    let (stop, stopped) = mpsc::channel();
    signals::spawn(move || {
        let _ = stop.send(());
    })
    .map_err(StartError::Signals)?;
    let relay = Relay::start(config, log)?;
    // The sender lives as long as the signal thread: this ends with a signal only.
    let _ = stopped.recv();
    relay.stop();
    Ok(())
}

/// A relay that runs.
pub struct Relay {
    config: Config,
    edge: edge::EdgeHandle,
    admin: Admin,
    crew: Arc<Crew>,
    threads: Threads,
    addresses: Vec<SocketAddr>,
    http_addresses: Vec<SocketAddr>,
    /// Removed at the end.
    _files: Vec<SocketFile>,
}

impl Relay {
    /// # Errors
    /// Anything that keeps it from starting.
    pub fn start(config: Config, log: &Control) -> Result<Self, StartError> {
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
        let Listening { tcp: listeners, unix, files } = listen(&config.listen, &config.tcp)?;
        let http = listen_http(&config.http, &config.tcp)?;
        let doors = config.admin.listen.iter().map(admin::open).collect::<Result<Vec<_>, _>>()?;
        let admin_addresses: Vec<_> = doors.iter().map(admin::Door::address).collect();
        let addresses = local(&listeners);
        let http_addresses = local(&http);
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
        let bootstrap_dns = bootstrap_dns::Table::start(&config.bootstrap_dns).map_err(StartError::BootstrapDns)?;
        let memory_at_start = metrics::resident_bytes();
        let mut edge_config = EdgeConfig::new(listeners, Arc::new(Keys::new(*key.as_bytes())));
        edge_config.unix = unix;
        edge_config.http = http;
        edge_config.bootstrap_dns = bootstrap_dns.clone();
        edge_config.tls = tls;
        edge_config.mesh_key = config.mesh_key.as_ref().map(|k| k.0);
        edge_config.live = live(&config);
        let (desk, questions) = tokio::sync::mpsc::channel(limits::DEBUG_QUESTIONS);
        edge_config.desk = Some(desk);
        edge_config.max_clients = Some(max_clients);
        edge_config.max_clients_per_ip = config.max_clients_per_ip;
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
            bootstrap_dns,
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
        let block = StartBlock {
            addresses: &addresses,
            unix: &files,
            http: &http_addresses,
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
        Ok(Self { config, edge, admin, crew, threads, addresses, http_addresses, _files: files })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The same for plain HTTP beside TLS.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http_addresses
    }

    /// Refuses new connections at once, tells clients to reconnect, flushes to those who read, ends.
    pub fn stop(self) {
        let began = Instant::now();
        // Whoever asks whether to send clients here is told first, and until the end.
        self.admin.stopping();
        self.edge.stop_accepting();
        // The edge ends first: what it hands over after the workers have ended would be nobody's.
        self.edge.join();
        self.crew.pool.stop(self.config.flush_on_stop, RECONNECT_SPREAD);
        while !self.threads.finished() {
            while self.crew.pop_event().is_some() {}
            std::thread::sleep(Duration::from_millis(2));
        }
        self.threads.join();
        while self.crew.pop_event().is_some() {}
        self.admin.end();
        info!(seconds = began.elapsed().as_secs_f32(), "stopped");
    }
}

fn live(config: &Config) -> edge::Live {
    edge::Live {
        site: Site {
            home: config.home.clone(),
            debug: config.debug_on_main.clone(),
            derp: config.derp,
            connect: config.connect,
            tailscales: config.tls.hostname().is_some_and(http::is_tailscales),
        },
        trusted_proxies: config.trusted_proxies.clone(),
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

/// The sockets of the main listener.
struct Listening {
    tcp: Vec<TcpListener>,
    unix: Vec<UnixListener>,
    files: Vec<SocketFile>,
}

const BACKLOG: i32 = 4096;

/// One socket for each address.
fn listen(addresses: &[ListenAddr], tcp: &TcpOptions) -> Result<Listening, StartError> {
    let mut out = Listening { tcp: Vec::new(), unix: Vec::new(), files: Vec::new() };
    for address in addresses {
        let opened = match address {
            ListenAddr::Tcp(address) => open(*address, tcp).map(|socket| out.tcp.push(socket)),
            ListenAddr::Unix(path) => sockets::unix(path, BACKLOG).map(|(socket, file)| {
                out.unix.push(socket);
                out.files.push(file);
            }),
        };
        opened.map_err(|error| StartError::Listen { address: address.clone(), error })?;
    }
    Ok(out)
}

fn listen_http(addresses: &[SocketAddr], tcp: &TcpOptions) -> Result<Vec<TcpListener>, StartError> {
    let open =
        |address: &SocketAddr| open(*address, tcp).map_err(|error| StartError::Http { address: *address, error });
    addresses.iter().map(open).collect()
}

fn open(address: SocketAddr, tcp: &TcpOptions) -> io::Result<TcpListener> {
    let open = |address| sockets::tcp(address, BACKLOG, |socket| edge::set_options(socket, tcp));
    open(address).or_else(|error| match address {
        // A host without IPv6: "all addresses" are those of IPv4.
        SocketAddr::V6(v6) if v6.ip().is_unspecified() && no_ipv6(&error) => {
            open((Ipv4Addr::UNSPECIFIED, v6.port()).into())
        }
        _ => Err(error),
    })
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn local(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
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
    unix: &'a [SocketFile],
    http: &'a [SocketAddr],
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
        for file in self.unix {
            let scheme = if self.tls { "https" } else { "http" };
            writeln!(f, "  listening   {scheme} on unix:{}", file.path().display())?;
        }
        for address in self.http {
            writeln!(f, "  plain HTTP  http://{address}/ (captive portal checks, redirects)")?;
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

    use socket2::SockRef;

    use super::*;

    /// Clients connect while the relay is still starting, above all when it has just been restarted.
    #[test]
    fn connections_that_came_before_anybody_accepts_have_their_options() {
        let tcp = TcpOptions {
            write_timeout: Duration::from_secs(2),
            user_timeout: Duration::from_secs(15),
            keepalive_time: Duration::from_secs(600),
        };
        let listeners = listen(&[ListenAddr::Tcp("127.0.0.1:0".parse().unwrap())], &tcp).unwrap().tcp;
        let _client = TcpStream::connect(listeners[0].local_addr().unwrap()).unwrap();
        let (accepted, _) = listeners[0].accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(15)));
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(600));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
    }

    #[test]
    fn what_cannot_be_had_says_what_to_do() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("derp");
        let listen = |path: &std::path::Path| {
            listen(&[ListenAddr::Unix(path.into())], &TcpOptions::default()).map_err(|error| error.to_string())
        };
        let first = listen(&path).unwrap();
        let error = listen(&path).err().unwrap();
        assert!(error.starts_with(&format!("cannot listen on unix:{}", path.display())), "{error}");
        assert!(error.contains("somebody listens there") && error.contains("--listen path"), "{error}");
        drop(first);
        assert!(!path.exists() && listen(&path).is_ok(), "the name is free again");
        std::fs::write(&path, "precious").unwrap();
        assert!(listen(&path).err().unwrap().contains("a file that is no socket"));

        let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let _taken = TcpListener::bind(taken).unwrap();
        let error = listen_http(&[taken], &TcpOptions::default()).err().unwrap().to_string();
        assert!(error.contains(&format!("cannot listen on {taken} for plain HTTP")), "{error}");
        assert!(error.contains("another process has this port"), "{error}");
        assert!(error.contains("--http-listen \"\" turns it off, -http-port=-1"), "{error}");
    }
}
