//! `derpring-loadgen stun`: requests of Tailscale's clients at a rate, each answer checked, and what one costs.

mod message;
mod report;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::cli;
use crate::engine::poller::{Interest, Poller, Precision};
use crate::engine::setup;
use crate::error::{Error, Exit};
use crate::measure::histogram;
use crate::measure::proc::Sample;
use crate::traffic::schedule::{Schedule, Share};
pub use message::AnswerError;
use message::Id;
use report::Report;

/// Send STUN requests as Tailscale's clients do, at a rate (open loop), check each answer to the byte, and measure.
///
/// Exit status: 0 the run is complete, 1 it could not be made, 2 an answer was wrong, 3 the generator was too late.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The server
    #[arg(value_name = "IP:PORT")]
    pub server: SocketAddr,
    /// Requests per second, sent by schedule and timed from it
    #[arg(long, value_name = "PER_S", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,
    /// Requests that are due at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub burst: u64,
    /// Sockets, which take turns
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub sources: u16,
    /// Each socket in an IPv4 /24 of its own, within 127.0.0.0/8: for a server on loopback that limits networks
    #[arg(long)]
    pub spread: bool,
    /// Measured time
    #[arg(long, default_value = "10s", value_parser = cli::duration)]
    pub duration: Duration,
    /// Load before the measured time
    #[arg(long, default_value = "1s", value_parser = cli::duration)]
    pub warmup: Duration,
    /// Measure this process as the server: CPU, memory, context switches
    #[arg(long, value_name = "PID")]
    pub relay_pid: Option<u32>,
    /// Stay on this processor
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
    /// Poll instead of sleeping: keeps a schedule to a few microseconds, at the price of a processor
    #[arg(long)]
    pub spin: bool,
    /// Exit with 3 when more than 1 % of the requests left later than this
    #[arg(long, default_value = "2ms", value_parser = cli::duration)]
    pub max_lateness: Duration,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How long behind the end answers are waited for.
const LINGER: Duration = Duration::from_millis(500);

/// An answer that takes longer, in nanoseconds, is a lost one.
const GIVEN_UP: u64 = 1_000_000_000;

/// # Errors
/// The run could not be made, or an answer was wrong.
pub fn run(args: &Args) -> Result<Exit, Error> {
    if let Some(cpu) = args.cpu {
        setup::pin(cpu)?;
    }
    let sample = || -> Result<Option<Sample>, Error> {
        let Some(pid) = args.relay_pid else { return Ok(None) };
        Sample::of(pid).map(Some).map_err(|source| Error::Process { pid, source })
    };
    let mut load = Load::new(args)?;
    load.go(args.warmup, Duration::ZERO)?;
    load.forget();
    let (before, began) = (sample()?, Instant::now());
    load.go(args.duration, LINGER)?;
    let after = sample()?;
    let report = Report::new(args, &load, began.elapsed(), before.zip(after));
    print!("{report}");
    if let Some(path) = &args.json {
        report.write_json(path)?;
    }
    Ok(if report.late { Exit::Late } else { Exit::Good })
}

/// One thread with all its sockets.
struct Load {
    server: SocketAddr,
    sockets: Vec<Source>,
    poller: Poller,
    clock: Instant,
    nonce: u32,
    rate: u64,
    burst: u64,
    spin: bool,
    max_lateness: Duration,
    next: u32,
    sent: u64,
    late: u64,
    /// The server's socket was full, or this one's.
    refused: u64,
    answered: u64,
    latency: Histogram<u64>,
}

struct Source {
    socket: UdpSocket,
    local: SocketAddr,
    /// Number and due time of what is on its way, in the order of numbers.
    flying: VecDeque<(u32, u64)>,
}

impl Load {
    fn new(args: &Args) -> Result<Self, Error> {
        let system = |what| move |source| Error::System { what, source };
        if args.spread && !args.server.ip().is_loopback() {
            return Err(Error::Usage("--spread is for a server on 127.0.0.0/8".into()));
        }
        let poller = Poller::new().map_err(system("cannot make an epoll instance"))?;
        let mut sockets = Vec::new();
        for number in 0..args.sources {
            let ip = match args.server.ip() {
                // Past 127.0.0.0/24, which others use.
                IpAddr::V4(_) if args.spread => {
                    Ipv4Addr::from_bits(0x7f00_0001 + ((u32::from(number) + 1) << 8)).into()
                }
                IpAddr::V4(ip) if ip.is_loopback() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            };
            let made = UdpSocket::bind((ip, 0)).and_then(|socket| {
                socket.connect(args.server)?;
                socket.set_nonblocking(true)?;
                let local = socket.local_addr()?;
                poller.add(&socket, sockets.len(), Interest { read: true, write: false })?;
                Ok(Source { socket, local, flying: VecDeque::new() })
            });
            sockets.push(made.map_err(system("cannot make a UDP socket"))?);
        }
        let mut nonce = [0; 4];
        getrandom::fill(&mut nonce).map_err(|_| Error::Usage("the system has no random numbers".into()))?;
        Ok(Self {
            server: args.server,
            sockets,
            poller,
            clock: Instant::now(),
            nonce: u32::from_ne_bytes(nonce),
            rate: args.rate,
            burst: args.burst,
            spin: args.spin,
            max_lateness: args.max_lateness,
            next: 0,
            sent: 0,
            late: 0,
            refused: 0,
            answered: 0,
            latency: histogram(),
        })
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Whatever is still on its way counts for nothing.
    fn forget(&mut self) {
        (self.sent, self.late, self.refused, self.answered) = (0, 0, 0, 0);
        self.latency = histogram();
        self.sockets.iter_mut().for_each(|source| source.flying.clear());
    }

    fn lost(&self) -> u64 {
        self.sent - self.answered
    }

    /// Sends for `time`, then waits for the last answers.
    fn go(&mut self, time: Duration, linger: Duration) -> Result<(), Error> {
        let start = self.now();
        let end = start + time.as_nanos() as u64;
        let mut schedule = Schedule::new(start, self.rate, self.burst, Share::WHOLE);
        loop {
            let now = self.now();
            while let Some((_, due)) = schedule.take(now.min(end - 1)) {
                for _ in 0..self.burst {
                    self.send(due)?;
                }
            }
            if now >= end {
                break;
            }
            self.receive(schedule.due().min(end))?;
        }
        let end = self.now() + linger.as_nanos() as u64;
        while self.now() < end && self.lost() > 0 {
            self.receive(end)?;
        }
        Ok(())
    }

    fn send(&mut self, due: u64) -> Result<(), Error> {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let now = self.now();
        self.late += u64::from(now - due > self.max_lateness.as_nanos() as u64);
        let at = number as usize % self.sockets.len();
        let source = &mut self.sockets[at];
        while source.flying.front().is_some_and(|(_, due)| due + GIVEN_UP < now) {
            source.flying.pop_front();
        }
        let request = message::request(Id { nonce: self.nonce, source: at as u32, number });
        self.sent += 1;
        match source.socket.send(&request) {
            Ok(_) => source.flying.push_back((number, due)),
            Err(error) if is_full(&error) => self.refused += 1,
            Err(source) => return Err(Error::System { what: "cannot send to the STUN server", source }),
        }
        Ok(())
    }

    /// Takes in what has come by `until`, or by the first that comes.
    fn receive(&mut self, until: u64) -> Result<(), Error> {
        let limit = if self.spin { 0 } else { until.saturating_sub(self.now()) };
        let waited = self.poller.wait(Duration::from_nanos(limit), Precision::Fine);
        waited.map_err(|source| Error::System { what: "cannot wait for sockets", source })?;
        for index in 0..self.poller.count() {
            let Some(ready) = self.poller.ready(index) else { continue };
            self.drain(ready.token)?;
        }
        Ok(())
    }

    fn drain(&mut self, at: usize) -> Result<(), Error> {
        let mut bytes = [0; 256];
        loop {
            let source = &mut self.sockets[at];
            let len = match source.socket.recv(&mut bytes) {
                Ok(len) => len,
                Err(error) if is_full(&error) => return Ok(()),
                Err(source) => return Err(Error::System { what: "cannot receive from the STUN server", source }),
            };
            let wrong = |source| Error::WrongAnswer { server: self.server, source };
            let id = message::read(&bytes[..len], source.local).map_err(wrong)?;
            let to_come = self.next.wrapping_sub(id.number).wrapping_sub(1) > u32::MAX / 2;
            if id.nonce != self.nonce || id.source != at as u32 || to_come {
                return Err(wrong(AnswerError::NotAsked));
            }
            // Of before the measured time, given up, or doubled by a network: not counted.
            let Ok(place) = source.flying.binary_search_by_key(&id.number, |(number, _)| *number) else { continue };
            let Some((_, due)) = source.flying.remove(place) else { continue };
            self.answered += 1;
            let now = self.clock.elapsed().as_nanos() as u64;
            self.latency.saturating_record(now.saturating_sub(due));
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}
