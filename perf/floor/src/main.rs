//! The least that a DERP forwarder can do: one thread, epoll, plain TCP, headers rewritten where they were received.
//!
//! It is what a relay's figures are held against, and no relay: no TLS, no check of who logs in, no word about peers
//! that are not there, no order between kinds of packets, no limits but one on what waits for a slow receiver.

mod cipher;
mod conn;
mod frame;
mod handshake;
mod login;
mod relay;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use relay::Relay;

/// The least that a DERP forwarder can do, to measure relays against. For loopback only: it lets everybody in.
#[derive(Debug, Parser)]
#[command(name = "derpring-floor", version)]
struct Args {
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Spend on each byte what AES-128-GCM costs, once as it comes and once as it leaves, and on each login what the
    /// cryptography of a TLS 1.3 handshake costs; what is sent stays plain
    #[arg(long)]
    cipher: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    raise_file_limit();
    let done = Relay::bind(args.listen, args.cipher).and_then(|mut relay| {
        println!("listening on {}", relay.address()?);
        relay.run()
    });
    match done {
        Ok(never) => match never {},
        Err(err) => {
            eprintln!("derpring-floor: {err}");
            ExitCode::FAILURE
        }
    }
}

/// As far as it goes; whether that is enough shows when descriptors run out.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
