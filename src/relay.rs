//! Puts a relay together from its parts and runs it until it is told to stop.

mod ending;
mod reins;
mod sockets;
mod start_block;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::SystemTime;

use tracing::{info, warn};

use crate::admin::{self, About, Admin};
use crate::config::{AcmeConfig, Backend, Config, KeySource, ListenAddr, Loaded, TlsMode, keys};
use crate::control::acme::{self, Acme};
use crate::control::bootstrap_dns;
use crate::control::huge_pages::SmallPages;
use crate::control::logging::Control;
use crate::control::metrics::{self, Collector};
use crate::control::sockets::{Open, SocketFile};
use crate::control::systemd::{Notify, PassedError};
use crate::control::takeover::{self, Desk, Giver, TakeError};
use crate::control::{cores, nofile, reload, signals};
use crate::driver::Nanos;
use crate::driver::probe::{self, Choice};
use crate::edge::{self, EdgeConfig, Workers};
use crate::limits;
use crate::proto::http::{self, Site};
use crate::proto::key::NodeKey;
use crate::proto::login::Keys;
use crate::relay::sockets::Listening;
use crate::relay::start_block::{Budget, StartBlock};
use crate::stun::{self, Stun};
use crate::tls::identity::{self, Certificates};
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
    #[error("cannot listen on {address}: {error}{}", sockets::hint(address, .error))]
    Listen { address: ListenAddr, error: io::Error },
    #[error(
        "cannot listen on {address} for plain HTTP: {error}{}; {HTTP_OFF}",
        sockets::hint(&ListenAddr::Tcp(*.address), .error)
    )]
    Http { address: SocketAddr, error: io::Error },
    #[error("cannot start the thread of /bootstrap-dns: {0}")]
    BootstrapDns(io::Error),
    #[error("cannot listen on {address}: this listener does not take sockets of that kind")]
    ListenKind { address: String },
    #[error(transparent)]
    Passed(#[from] PassedError),
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error("a socket that the running relay gave cannot be used: {0}")]
    Given(io::Error),
    #[error("cannot listen for a takeover on {path}: {error}{}", sockets::takeover_hint(.error))]
    TakeoverSocket { path: String, error: io::Error },
    #[error(transparent)]
    AdminListen(#[from] admin::ListenError),
    #[error("cannot start the admin thread: {0}")]
    Admin(io::Error),
    #[error(transparent)]
    StunListen(#[from] stun::OpenError),
    #[error("cannot start the STUN thread: {0}")]
    Stun(io::Error),
    #[error("--backend uring: io_uring does not work here: {0}")]
    Uring(String),
    #[error("cannot start the workers: {0}")]
    Workers(io::Error),
    #[error(transparent)]
    Edge(#[from] edge::StartError),
    #[error("cannot start the reload thread: {0}")]
    Reload(io::Error),
    #[error(transparent)]
    Acme(#[from] acme::StartError),
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
}

const HTTP_OFF: &str = "--http-listen \"\" turns it off, -http-port=-1 for derper's command line";

/// Runs the relay; returns after an orderly stop. `again` reads the configuration anew, whenever it may have changed.
///
/// # Errors
/// Anything that keeps it from starting.
pub fn run(loaded: Loaded, again: reload::Source, log: &Control) -> Result<(), StartError> {
    let (order, orders) = mpsc::channel();
    // The first signal begins a drain if there is to be one, and whoever drains already has had it.
    let hurries = Arc::new(AtomicBool::new(!loaded.config.drain_time.is_zero()));
    let (stop, steps) = (order.clone(), hurries.clone());
    let hangup = Arc::new(reload::Bell::new().map_err(StartError::Reload)?);
    let asked = Arc::clone(&hangup);
    let stop = move || {
        let _ = stop.send(Order::Stop);
        if steps.swap(false, Ordering::AcqRel) { signals::Next::Hurries } else { signals::Next::Kills }
    };
    signals::spawn(stop, move || asked.ring()).map_err(StartError::Signals)?;
    let relay = Relay::start(loaded.config.clone(), log, move |successor| {
        hurries.store(false, Ordering::Release);
        let _ = order.send(Order::Succeeded(successor));
    })?;
    let (reins, counts) = (Box::new(relay.reins(log)), Arc::clone(&relay.reloads));
    let reloader = reload::Reloader::start(loaded, again, reins, counts, hangup).map_err(StartError::Reload)?;
    // The sender lives as long as the signal thread.
    let first = orders.recv().unwrap_or(Order::Stop);
    drop(reloader);
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
    acme: Option<Acme>,
    crew: Arc<Crew>,
    threads: Threads,
    addresses: Vec<SocketAddr>,
    http_addresses: Vec<SocketAddr>,
    stun: Option<Stun>,
    /// Removed at the end.
    _files: Vec<SocketFile>,
    /// Listening sockets, to give away.
    open: Arc<Open>,
    giver: Option<Giver>,
    notify: Arc<Notify>,
    certificates: Option<Certificates>,
    workers: usize,
    edges: usize,
    reloads: Arc<reload::Counts>,
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
        let _pages = SmallPages::begin();
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
        let notify = Arc::new(Notify::from_environment());
        let listening = Listening::open(&config, &public)?;
        let Listening { tcp: listeners, unix, http, stun: stun_sockets, admin: doors, desk, files, open, taking } =
            listening;
        let open = Arc::new(open);
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
            round_trips: config.round_trips,
            server_key: public,
            seed: u64::from_ne_bytes(first_eight(&public)),
        };
        let (pool, threads) = Pool::start(workers, &cores.cpus, &choice, &settings).map_err(StartError::Workers)?;
        let crew = Arc::new(Crew { pool });
        let bootstrap_dns = bootstrap_dns::Table::start(&config.bootstrap_dns).map_err(StartError::BootstrapDns)?;
        let memory_at_start = metrics::resident_bytes();
        let mut edge_config = EdgeConfig::new(listeners, Arc::new(Keys::new(*key.as_bytes())));
        edge_config.open = false;
        edge_config.unix = unix;
        edge_config.http = http;
        edge_config.bootstrap_dns = bootstrap_dns.clone();
        edge_config.tls = tls.as_ref().map(|tls| Arc::clone(&tls.config));
        edge_config.certificates = tls.as_ref().map(|tls| tls.certificates.clone());
        let acme = start_acme(&config, tls.as_ref(), &addresses)?;
        edge_config.challenges = acme.as_ref().map(Acme::challenges);
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
        let stun_stats = Arc::new(stun::Stats::default());
        let reloads = Arc::new(reload::Counts::default());
        let sources = metrics::Sources {
            workers: crew.pool.stats().clone(),
            edges: edge.stats().clone(),
            stun: stun_stats.clone(),
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
            reloads: Arc::clone(&reloads),
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
        let stun = start_stun(&config, stun_sockets, stun_stats).map_err(StartError::Stun)?;
        let stun_addresses = stun.as_ref().map(Stun::addresses).unwrap_or_default();
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
        sockets::leave_with_systemd(&notify, &open);
        notify.ready();
        let block = StartBlock {
            addresses: &addresses,
            unix: &files,
            http: &http_addresses,
            admin: &admin_addresses,
            stun: &stun_addresses,
            stun_any: config.stun.any,
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
        Ok(Self {
            config,
            edge,
            admin,
            stun,
            acme,
            crew,
            threads,
            addresses,
            http_addresses,
            certificates: tls.map(|tls| tls.certificates),
            workers,
            edges,
            reloads,
            _files: files,
            open,
            giver,
            notify,
        })
    }

    fn reins(&self, log: &Control) -> reins::Reins {
        reins::Reins {
            edge: self.edge.reins(),
            admin: self.admin.reins(),
            certificates: self.certificates.clone(),
            notify: Arc::clone(&self.notify),
            log: log.clone(),
            workers: self.workers,
            edges: self.edges,
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The same for plain HTTP beside TLS.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http_addresses
    }
}

fn start_stun(config: &Config, sockets: Vec<UdpSocket>, stats: Arc<stun::Stats>) -> io::Result<Option<Stun>> {
    let clients = if config.stun.any { stun::Clients::Any } else { stun::Clients::Tailscale };
    if sockets.is_empty() { Ok(None) } else { Stun::start(sockets, clients, stats).map(Some) }
}

fn start_acme(
    config: &Config,
    tls: Option<&identity::Loaded>,
    addresses: &[SocketAddr],
) -> Result<Option<Acme>, StartError> {
    let (TlsMode::Acme(acme), Some(tls)) = (&config.tls, tls) else { return Ok(None) };
    let parts = acme::Parts {
        config: AcmeConfig::clone(acme),
        certificates: tls.certificates.clone(),
        listening: addresses.iter().map(SocketAddr::ip).collect(),
        http: !config.http.is_empty(),
        pace: acme::Pace::default(),
    };
    Ok(Some(Acme::start(parts)?))
}

fn live(config: &Config, max_clients: usize) -> edge::Live {
    edge::Live {
        site: Site {
            home: config.home.clone(),
            debug: config.debug_on_main.clone(),
            derp: config.derp,
            connect: config.connect,
            tailscales: config.tls.hostname().is_some_and(http::is_tailscales),
        },
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

fn local(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
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
    use crate::control::sockets::{Role, Sockets};

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
