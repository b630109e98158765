//! The workers' turns on the simulated network, and nothing else, for whoever counts: the allocator in here, and
//! callgrind from outside, which is told to look at `measured_turns` alone.
//!
//! The shape is that of the benchmark of the whole line (`benches/line.rs`), warm, and the same in every run.

#[path = "../../../benches/bed/mod.rs"]
mod bed;
mod idle;
mod packets;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

#[derive(Parser)]
#[command(name = "derpring-line", version, about = "The line that a packet follows, to be counted")]
enum Command {
    #[command(flatten)]
    Count(Count),
}

#[derive(Subcommand)]
enum Count {
    /// Relay packets; callgrind is to collect in functions that match *measured_turns*
    Packets(Packets),
    /// Log sessions in that then do nothing
    Idle(Idle),
}

#[derive(Args, Clone, Copy)]
struct Packets {
    #[arg(long, default_value = "tls13")]
    transport: Kind,
    /// Senders on one worker, receivers on another
    #[arg(long)]
    across: bool,
    /// Frames per write of a sender
    #[arg(long, default_value_t = 8)]
    burst: usize,
    /// Bytes of data per packet
    #[arg(long, default_value_t = 1400)]
    size: usize,
    /// Writes of every sender that are measured
    #[arg(long, default_value_t = 50)]
    rounds: usize,
}

#[derive(Args, Clone, Copy)]
struct Idle {
    #[arg(long, default_value = "tls13")]
    transport: Kind,
    #[arg(long, default_value_t = 1000)]
    sessions: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Plain,
    Tls13,
}

fn main() {
    let Command::Count(count) = Command::parse();
    match count {
        Count::Packets(what) => print(&packets::count(what)),
        Count::Idle(what) => print(&idle::count(what)),
    }
}

fn print(counted: &impl Serialize) {
    println!("{}", serde_json::to_string(counted).expect("plain numbers"));
}
