//! The validated plan.

use std::path::PathBuf;
use std::time::Duration;

use super::{Args, Given, Target, Transport, target};
use crate::derp::frame::MAX_DATA;
use crate::error::Error;
use crate::traffic::payload::{self, MAX_LINKS};
use crate::traffic::shape::{Class, Layout, Shape};
use crate::traffic::sizes::Sizes;

/// How senders decide when to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// At most this many packets of a link are between sender and receiver.
    Window(u64),
    /// This many packets per second in total, whatever comes back.
    Rate(u64),
}

/// The load of pairs whose receiver may be slow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slow {
    pub bulk_window: u64,
    /// Bytes per second that a slow receiver reads.
    pub read: u64,
}

/// How to look for the largest rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// As a share of all packets.
    pub max_loss: f64,
    pub step: Duration,
}

/// A run that can be made: every value is checked against the others.
#[derive(Debug)]
pub struct Plan {
    pub url: String,
    pub targets: Vec<Target>,
    pub transport: Transport,
    pub shape: Shape,
    /// The whole run's connections and links.
    pub layout: Layout,
    /// Tells the packets of this run from those of any other.
    pub nonce: u64,
    pub pace: Pace,
    pub slow: Slow,
    pub churn: u64,
    pub disco: u64,
    pub burst: u64,
    pub sizes: Sizes,
    pub mixed: bool,
    pub duration: Duration,
    pub warmup: Duration,
    pub stall: Duration,
    pub first_packet: bool,
    pub login_concurrency: usize,
    pub login_timeout: Duration,
    pub relay_pid: Option<u32>,
    pub threads: usize,
    /// Thread i stays on processor i, and so on in turn; none: where the kernel likes.
    pub cpus: Vec<usize>,
    pub search: Option<Search>,
    pub strace: Option<Duration>,
    pub spin: bool,
    pub max_lateness: Duration,
    pub transit: bool,
    pub json: Option<PathBuf>,
    pub plot: Option<PathBuf>,
    /// Who makes the load, if not this process; and what they are told.
    pub agents: Vec<String>,
    pub command_line: Vec<String>,
    pub given: Given,
}

impl Plan {
    pub fn new(args: Args) -> Result<Self, Error> {
        let given = Given::load(&args)?;
        let nonce = getrandom::u64()
            .map_err(|err| Error::System { what: "cannot make a random number", source: std::io::Error::other(err) })?;
        Self::with(args, &given, nonce)
    }

    pub fn with(args: Args, given: &Given, nonce: u64) -> Result<Self, Error> {
        let shape = shape(&args);
        let layout = shape.layout();
        check(&args, &layout)?;
        let targets = target::targets(&args, given)?;
        Ok(Self {
            transport: args.transport,
            layout: layout.spread(targets.len(), args.meshed),
            targets,
            pace: pace(&args)?,
            shape,
            nonce,
            slow: Slow { bulk_window: args.bulk_window, read: args.slow_read },
            churn: args.churn,
            disco: args.disco,
            burst: args.burst,
            mixed: args.sizes.is_some(),
            sizes: args.sizes.unwrap_or_else(|| Sizes::fixed(args.size)),
            url: args.map.unwrap_or_else(|| args.url.join(" ")),
            duration: args.duration,
            warmup: args.warmup,
            stall: args.stall,
            first_packet: args.first_packet,
            login_concurrency: args.login_concurrency,
            login_timeout: args.login_timeout,
            relay_pid: args.relay_pid,
            threads: args.threads,
            cpus: args.cpus.map_or_else(|| args.cpu.into_iter().collect(), |list| list.0),
            search: args.find_max.then_some(Search { max_loss: args.max_loss, step: args.find_step }),
            strace: args.strace,
            spin: args.spin,
            max_lateness: args.max_lateness,
            transit: args.transit,
            json: args.json,
            plot: args.plot,
            agents: args.agents,
            command_line: std::env::args().collect(),
            given: given.clone(),
        })
    }

    /// Links of a class in the whole run.
    pub fn links_of(&self, class: Class) -> usize {
        self.layout.count(class)
    }

    pub fn has_measured_load(&self) -> bool {
        self.links_of(Class::Main) > 0
    }

    /// A flood uses every moment that the generator has.
    pub fn floods(&self) -> bool {
        self.shape.bulk + self.shape.stalled + self.shape.slow > 0
    }
}

/// Each flag against its bounds and the others.
fn check(args: &Args, layout: &Layout) -> Result<(), Error> {
    let usage = |text: String| Err(Error::Usage(text));
    if layout.conns.is_empty() && args.churn == 0 && !args.first_packet {
        return usage("nothing to do: give --pairs N, --idle N or another load (see --help)".into());
    }
    if layout.links.len() > MAX_LINKS {
        return usage(format!("more than {MAX_LINKS} senders and receivers: ask for fewer"));
    }
    if !(payload::MIN_LEN..=MAX_DATA).contains(&args.size) {
        return usage(format!(
            "--size must be between {} (number, time and check of a packet) and {MAX_DATA} (the protocol's limit)",
            payload::MIN_LEN
        ));
    }
    let main = layout.count(Class::Main);
    if args.disco > 0 && main + args.bulk == 0 {
        return usage("--disco needs --bulk or measured load: its packets go between the same clients".into());
    }
    if args.transit && main == layout.count(Class::Reply) {
        return usage("--transit needs load that goes one way to measure, such as --pairs N".into());
    }
    if args.find_max && main == 0 {
        return usage("--find-max needs load to measure, such as --pairs N".into());
    }
    if !(0.0..1.0).contains(&args.max_loss) {
        return usage("--max-loss is a share of the packets: at least 0, and less than 1".into());
    }
    let sending = layout.sending_units();
    let units = if sending > 0 { sending } else { layout.conns.len() };
    let threads = args.threads * args.agents.len().max(1);
    if threads > units.max(1) {
        return usage(format!(
            "{threads} threads are more than the {units} pairs, groups or clients, and none of these is taken apart: \
             ask for more of them (--groups), or for fewer --threads and --agents"
        ));
    }
    if args.duration.is_zero() {
        return usage("--duration must be longer than nothing".into());
    }
    for (name, value) in [
        ("--burst", args.burst),
        ("--login-concurrency", args.login_concurrency as u64),
        ("--groups", args.groups as u64),
        ("--bulk-window", args.bulk_window),
        ("--slow-read", args.slow_read),
        ("--threads", args.threads as u64),
        ("--find-step, in nanoseconds,", args.find_step.as_nanos() as u64),
    ] {
        if value == 0 {
            return usage(format!("{name} must be at least 1"));
        }
    }
    Ok(())
}

fn pace(args: &Args) -> Result<Pace, Error> {
    match (args.rate, args.window.unwrap_or(8)) {
        (Some(0), _) => Err(Error::Usage("--rate must be at least 1".into())),
        (Some(rate), _) => Ok(Pace::Rate(rate)),
        (None, _) if args.find_max => Ok(Pace::Rate(1000)),
        (None, window) if window < args.burst => Err(Error::Usage(format!(
            "--window {window} is smaller than --burst {}: no write would ever fit",
            args.burst
        ))),
        (None, window) => Ok(Pace::Window(window)),
    }
}

fn shape(args: &Args) -> Shape {
    Shape {
        pairs: args.pairs,
        fan_in: args.fan_in,
        fan_out: args.fan_out,
        all_to_all: args.all_to_all,
        star: args.star,
        request_reply: args.request_reply,
        groups: args.groups,
        idle: args.idle,
        bulk: args.bulk,
        slow: args.slow,
        stalled: args.stalled,
        disco: args.disco > 0,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn plan(flags: &[&str]) -> Result<Plan, Error> {
        let base = ["derpring-loadgen", "--url", "http://127.0.0.1:1/derp"];
        Plan::new(Args::try_parse_from(base.iter().chain(flags)).unwrap())
    }

    #[test]
    fn a_plan_that_cannot_be_run_is_refused() {
        for bad in [
            &[][..],
            &["--pairs", "1", "--size", "23"],
            &["--pairs", "1", "--size", "65537"],
            &["--pairs", "1", "--window", "4", "--burst", "5"],
            &["--pairs", "1", "--burst", "0"],
            &["--pairs", "1", "--rate", "0"],
            &["--pairs", "1", "--fast-start"],
            &["--idle", "1", "--disco", "5"],
            &["--bulk", "1", "--bulk-window", "0"],
            &["--all-to-all", "3000"],
            &["--star", "9", "--threads", "2"],
            &["--pairs", "1", "--url", "http://127.0.0.1:2", "--connect", "127.0.0.1:3"],
            &["--pairs", "1", "--transport", "websocket", "--fast-start"],
            &["--idle", "1", "--find-max"],
            &["--idle", "1", "--transit"],
            &["--request-reply", "1", "--transit"],
            &["--pairs", "1", "--find-max", "--max-loss", "1"],
        ] {
            assert!(matches!(plan(bad), Err(Error::Usage(_))), "{bad:?}");
        }
    }

    #[test]
    fn every_load_is_enough_for_a_plan() {
        for good in [
            &["--pairs", "1"][..],
            &["--idle", "1"],
            &["--churn", "5"],
            &["--first-packet"],
            &["--stalled", "1"],
            &["--star", "3", "--groups", "2"],
            &["--bulk", "1", "--disco", "5"],
        ] {
            assert!(plan(good).is_ok(), "{good:?}");
        }
    }
}
