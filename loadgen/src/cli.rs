//! Flags, and the validated plan made from them.

mod map;
mod plan;
mod target;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::stun;
use crate::traffic::sizes::Sizes;
pub use plan::{Pace, Plan, Search, Slow};
pub use target::{Given, Target, TlsTarget};

/// Load a DERP relay, check every packet, and measure.
///
/// Exit status: 0 the run is complete, 1 it could not be made, 2 the relay delivered something
/// wrong, 3 the generator was too late for its figures to be the relay's.
#[derive(Debug, Parser)]
#[command(name = "derpring-loadgen", version, args_override_self = true, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    pub tool: Option<Tool>,
    /// The relay, as `http[s]://HOST[:PORT][/PATH]`; the path is /derp by default. May be given
    /// several times: pairs and groups are spread over the relays, each whole on one
    #[arg(long)]
    pub url: Vec<String>,
    /// The relays of a region in this DERP map, a file, or a URL of http or https
    #[arg(long, value_name = "FILE|URL")]
    pub map: Option<String>,
    /// Number or code of the region; needed where the map has several
    #[arg(long, value_name = "REGION", requires = "map")]
    pub region: Option<String>,
    /// The relays are one mesh: spread every connection, so that pairs are on different relays
    #[arg(long)]
    pub meshed: bool,
    /// How the connection is upgraded
    #[arg(long, default_value = "derp")]
    pub transport: Transport,
    /// Connect here, whatever the URL says
    #[arg(long, value_name = "IP:PORT")]
    pub connect: Option<SocketAddr>,

    /// Trust the certificate authorities in this PEM file
    #[arg(long, value_name = "FILE", help_heading = "TLS", group = "trust")]
    pub ca: Option<PathBuf>,
    /// Trust the certificate with this SHA-256 (of its DER form)
    #[arg(long, value_name = "HEX", help_heading = "TLS", group = "trust")]
    pub pin: Option<String>,
    /// Trust any certificate. Without --ca, --pin and this, the machine's authorities are trusted
    #[arg(long, help_heading = "TLS", group = "trust")]
    pub insecure: bool,
    /// Name asked for and checked; default: the host of the URL
    #[arg(long, value_name = "NAME", help_heading = "TLS")]
    pub server_name: Option<String>,
    /// TLS version
    #[arg(long, default_value = "1.3", help_heading = "TLS")]
    pub tls: Version,
    /// The one cipher offered
    #[arg(long, default_value = "aes128", help_heading = "TLS")]
    pub cipher: Cipher,
    /// Log in without waiting for the HTTP answer where the certificate chain names the relay's key
    #[arg(long, help_heading = "TLS")]
    pub fast_start: bool,

    /// Sender i sends to receiver i: two connections per pair
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Measured load")]
    pub pairs: usize,
    /// N clients ask, N others answer each packet with one as long; latency is there and back
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Measured load")]
    pub request_reply: usize,
    /// N clients send to one
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Measured load")]
    pub fan_in: usize,
    /// One client sends to N
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Measured load")]
    pub fan_out: usize,
    /// N clients, each sends to every other
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Measured load")]
    pub all_to_all: usize,
    /// One client and N others send to each other, those N not among themselves
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Measured load")]
    pub star: usize,
    /// So many fan-ins, fan-outs, all-to-alls and stars
    #[arg(long, value_name = "G", default_value_t = 1, help_heading = "Measured load")]
    pub groups: usize,
    /// Closed loop: packets in flight from each sender to each of its receivers [default: 8]
    #[arg(long, value_name = "K", conflicts_with = "rate", help_heading = "Measured load")]
    pub window: Option<u64>,
    /// Open loop: packets per second in total, sent by schedule and timed from it
    #[arg(long, value_name = "PKTS_PER_S", help_heading = "Measured load")]
    pub rate: Option<u64>,
    /// Find the largest rate whose loss stays within --max-loss, beginning at --rate [default: 1000],
    /// and measure that
    #[arg(long, conflicts_with = "window", help_heading = "Measured load")]
    pub find_max: bool,
    /// With --find-max: loss up to this share of the packets is none
    #[arg(long, value_name = "SHARE", default_value_t = 0.001, help_heading = "Measured load")]
    pub max_loss: f64,
    /// With --find-max: measured time of one try
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration, help_heading = "Measured load")]
    pub find_step: Duration,
    /// Frames per write
    #[arg(long, value_name = "F", default_value_t = 1, help_heading = "Measured load")]
    pub burst: u64,
    /// Bytes of data per packet
    #[arg(long, value_name = "BYTES", default_value_t = 1400, help_heading = "Measured load")]
    pub size: usize,
    /// A mix of sizes in place of --size: `imix` (96:8,148:1,580:3,1400:4), or LENGTH:WEIGHT with commas between
    #[arg(long, value_name = "MIX", help_heading = "Measured load")]
    pub sizes: Option<Sizes>,
    /// Measured time
    #[arg(long, default_value = "10s", value_parser = duration, help_heading = "Measured load")]
    pub duration: Duration,
    /// Load before the measured time
    #[arg(long, default_value = "2s", value_parser = duration, help_heading = "Measured load")]
    pub warmup: Duration,
    /// A link on which nothing arrives for this long gives its packets in flight up as lost
    #[arg(long, default_value = "250ms", value_parser = duration, help_heading = "Measured load")]
    pub stall: Duration,

    /// Connections that log in and then only listen
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Load beside it")]
    pub idle: usize,
    /// Complete logins per second from fresh keys, each closed at once
    #[arg(long, value_name = "PER_S", default_value_t = 0, help_heading = "Load beside it")]
    pub churn: u64,
    /// Pairs that send as much as --bulk-window lets them
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Load beside it")]
    pub bulk: usize,
    /// Packets in flight per pair of --bulk and --slow
    #[arg(long, value_name = "K", default_value_t = 256, help_heading = "Load beside it")]
    pub bulk_window: u64,
    /// Pairs whose sender floods and whose receiver never reads after its login
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Load beside it")]
    pub stalled: usize,
    /// Pairs as of --bulk whose receiver reads no faster than --slow-read
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Load beside it")]
    pub slow: usize,
    /// Bytes per second that each receiver of --slow reads
    #[arg(long, value_name = "BYTES_PER_S", default_value_t = 100_000, help_heading = "Load beside it")]
    pub slow_read: u64,
    /// Disco packets per second in total, between the senders and receivers of measured and bulk load
    #[arg(long, value_name = "PER_S", default_value_t = 0, help_heading = "Load beside it")]
    pub disco: u64,

    /// Before all else, measure the time from the first attempt to connect, made again every
    /// millisecond while the relay refuses, to the first packet between two clients
    #[arg(long)]
    pub first_packet: bool,
    /// Logins in progress at a time; when there are fewer than threads, threads log in in turn
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub login_concurrency: usize,
    /// Longest time one login may take
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub login_timeout: Duration,
    /// Measure this process as the relay: CPU, memory, context switches
    #[arg(long, value_name = "PID")]
    pub relay_pid: Option<u32>,
    /// With --relay-pid: count the relay's system calls per packet with strace, for this long, behind
    /// the measured time (tracing slows the relay) [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = duration, num_args = 0..=1, default_missing_value = "1s",
          requires = "relay_pid")]
    pub strace: Option<Duration>,
    /// Threads, each with its own connections; a group of a shape stays on one
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Be an agent: wait here for --agents of another, and make a part of its load. Whoever connects
    /// is believed, without any password, and can load any host from here: only for trusted networks
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:7340",
          help_heading = "Several machines")]
    pub agent: Option<String>,
    /// Spread the load over these agents, which run the same version, in place of this process. A
    /// --relay-pid is measured here
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', help_heading = "Several machines")]
    pub agents: Vec<String>,
    /// Stay on this processor
    #[arg(long, value_name = "N", conflicts_with = "cpus")]
    pub cpu: Option<usize>,
    /// Processors for the threads, in turn, such as 0,2 or 4-7
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub cpus: Option<CpuList>,
    /// Poll instead of sleeping: keeps a schedule to a few microseconds, at the price of a processor
    #[arg(long)]
    pub spin: bool,
    /// With --rate: exit with 3 when more than 1 % of the packets left later than this
    #[arg(long, default_value = "2ms", value_parser = duration)]
    pub max_lateness: Duration,
    /// Tell also how much of the latency is not the generator's: from a packet's write to its arrival in the receiver's
    /// kernel. Packets that are read together have the time of the last
    #[arg(long)]
    pub transit: bool,
    /// Draw latency, and throughput and loss over time, into this SVG file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Loads of another kind, each with flags of its own.
#[derive(Clone, Debug, Subcommand)]
pub enum Tool {
    Stun(stun::Args),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Transport {
    Derp,
    Websocket,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Version {
    #[value(name = "1.2")]
    V12,
    #[value(name = "1.3")]
    V13,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Cipher {
    Aes128,
    Aes256,
    Chacha20,
}

/// Processors by number.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CpuList(pub Vec<usize>);

fn cpu_list(text: &str) -> Result<CpuList, String> {
    let form = "give numbers and ranges with commas between them, such as 0,2 or 4-7";
    let number = |text: &str| text.parse::<usize>().map_err(|_| form.to_owned());
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last > 65_535 {
            return Err(form.into());
        }
        cpus.extend(first..=last);
    }
    Ok(CpuList(cpus))
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit {other}: use us, ms, s, m or h")),
    };
    let value: f64 = digits.parse().map_err(|_| "give a number and a unit, such as 10s or 500ms".to_string())?;
    Duration::try_from_secs_f64(value * unit).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(duration("250us").unwrap(), Duration::from_micros(250));
        assert_eq!(duration("2").unwrap(), Duration::from_secs(2));
        assert!(duration("").is_err() && duration("-1s").is_err() && duration("1d").is_err());
    }

    #[test]
    fn processors() {
        assert_eq!(cpu_list("0,2,4-6").unwrap().0, [0, 2, 4, 5, 6]);
        for bad in ["", "a", "3-1", "1-", "0-99999999"] {
            assert!(cpu_list(bad).is_err(), "{bad}");
        }
    }
}
