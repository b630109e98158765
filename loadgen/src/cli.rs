//! Flags, and the validated plan made from them.

mod target;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::derp::frame::MAX_DATA;
use crate::error::Error;
use crate::traffic::payload;
pub use target::{Target, TlsTarget};

/// Load a DERP relay, check every packet, and measure.
///
/// Exit status: 0 the run is complete, 1 it could not be made, 2 the relay delivered something
/// wrong, 3 the generator was too late for its figures to be the relay's.
#[derive(Debug, Parser)]
#[command(name = "derpring-loadgen", version, args_override_self = true)]
pub struct Args {
    /// The relay, as `http[s]://HOST[:PORT][/PATH]`; the path is /derp by default
    #[arg(long)]
    pub url: String,
    /// Connect here, whatever the URL says
    #[arg(long, value_name = "IP:PORT")]
    pub connect: Option<SocketAddr>,

    /// Trust the certificate authorities in this PEM file
    #[arg(long, value_name = "FILE", help_heading = "TLS", group = "trust")]
    pub ca: Option<PathBuf>,
    /// Trust the certificate with this SHA-256 (of its DER form)
    #[arg(long, value_name = "HEX", help_heading = "TLS", group = "trust")]
    pub pin: Option<String>,
    /// Trust any certificate
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
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Load shape")]
    pub pairs: usize,
    /// Connections that log in and then only listen
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Load shape")]
    pub idle: usize,
    /// Closed loop: packets in flight per pair [default: 8]
    #[arg(long, value_name = "K", conflicts_with = "rate", help_heading = "Load shape")]
    pub window: Option<u64>,
    /// Open loop: packets per second in total, sent by schedule and timed from it
    #[arg(long, value_name = "PKTS_PER_S", help_heading = "Load shape")]
    pub rate: Option<u64>,
    /// Frames per write
    #[arg(long, value_name = "F", default_value_t = 1, help_heading = "Load shape")]
    pub burst: u64,
    /// Bytes of data per packet
    #[arg(long, value_name = "BYTES", default_value_t = 1400, help_heading = "Load shape")]
    pub size: usize,
    /// Measured time
    #[arg(long, default_value = "10s", value_parser = duration, help_heading = "Load shape")]
    pub duration: Duration,
    /// Load before the measured time
    #[arg(long, default_value = "2s", value_parser = duration, help_heading = "Load shape")]
    pub warmup: Duration,
    /// A pair that receives nothing for this long gives its packets in flight up as lost
    #[arg(long, default_value = "250ms", value_parser = duration, help_heading = "Load shape")]
    pub stall: Duration,

    /// Logins in progress at a time
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub login_concurrency: usize,
    /// Longest time one login may take
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub login_timeout: Duration,
    /// Measure this process as the relay: CPU, memory, context switches
    #[arg(long, value_name = "PID")]
    pub relay_pid: Option<u32>,
    /// Stay on this processor
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
    /// Poll instead of sleeping: keeps a schedule to a few microseconds, at the price of a processor
    #[arg(long)]
    pub spin: bool,
    /// With --rate: exit with 3 when more than 1 % of the packets left later than this
    #[arg(long, default_value = "2ms", value_parser = duration)]
    pub max_lateness: Duration,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
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

/// How senders decide when to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// At most this many packets of a pair are between sender and receiver.
    Window(u64),
    /// This many packets per second in total, whatever comes back.
    Rate(u64),
}

/// A run that can be made: every value is checked against the others.
#[derive(Debug)]
pub struct Plan {
    pub url: String,
    pub target: Target,
    pub pairs: usize,
    pub idle: usize,
    pub pace: Pace,
    pub burst: u64,
    pub size: usize,
    pub duration: Duration,
    pub warmup: Duration,
    pub stall: Duration,
    pub login_concurrency: usize,
    pub login_timeout: Duration,
    pub relay_pid: Option<u32>,
    pub cpu: Option<usize>,
    pub spin: bool,
    pub max_lateness: Duration,
    pub json: Option<PathBuf>,
}

impl Plan {
    pub fn new(args: Args) -> Result<Self, Error> {
        let usage = |text: String| Err(Error::Usage(text));
        if args.pairs == 0 && args.idle == 0 {
            return usage("nothing to do: give --pairs N, --idle N or both".into());
        }
        if !(payload::MIN_LEN..=MAX_DATA).contains(&args.size) {
            return usage(format!(
                "--size must be between {} (number, time and check of a packet) and {MAX_DATA} (the protocol's limit)",
                payload::MIN_LEN
            ));
        }
        let pace = match (args.rate, args.window) {
            (Some(0), _) => return usage("--rate must be at least 1".into()),
            (Some(rate), _) => Pace::Rate(rate),
            (None, window) => Pace::Window(window.unwrap_or(8)),
        };
        if args.burst == 0 {
            return usage("--burst must be at least 1".into());
        }
        if let Pace::Window(window) = pace
            && window < args.burst
        {
            return usage(format!("--window {window} is smaller than --burst {}: no write would ever fit", args.burst));
        }
        if args.duration.is_zero() {
            return usage("--duration must be longer than nothing".into());
        }
        if args.login_concurrency == 0 {
            return usage("--login-concurrency must be at least 1".into());
        }
        Ok(Self {
            target: Target::new(&args)?,
            url: args.url,
            pairs: args.pairs,
            idle: args.idle,
            pace,
            burst: args.burst,
            size: args.size,
            duration: args.duration,
            warmup: args.warmup,
            stall: args.stall,
            login_concurrency: args.login_concurrency,
            login_timeout: args.login_timeout,
            relay_pid: args.relay_pid,
            cpu: args.cpu,
            spin: args.spin,
            max_lateness: args.max_lateness,
            json: args.json,
        })
    }

    pub fn connections(&self) -> usize {
        2 * self.pairs + self.idle
    }
}

fn duration(text: &str) -> Result<Duration, String> {
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
    fn a_plan_that_cannot_be_run_is_refused() {
        let plan = |flags: &[&str]| {
            let base = ["derpring-loadgen", "--url", "http://127.0.0.1:1/derp"];
            Plan::new(Args::try_parse_from(base.iter().chain(flags)).unwrap())
        };
        assert!(plan(&["--pairs", "1"]).is_ok());
        for bad in [
            &[][..],
            &["--pairs", "1", "--size", "23"],
            &["--pairs", "1", "--size", "65537"],
            &["--pairs", "1", "--window", "4", "--burst", "5"],
            &["--pairs", "1", "--burst", "0"],
            &["--pairs", "1", "--rate", "0"],
            &["--pairs", "1", "--fast-start"],
        ] {
            assert!(matches!(plan(bad), Err(Error::Usage(_))), "{bad:?}");
        }
    }
}
