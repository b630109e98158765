//! The server inside of a relay: flags, start block, counters, the end.

use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

use crate::relay_support::process::{command, flags, status};
use crate::relay_support::*;
use crate::support::*;

const GROUND: Ground = Ground { backend: "epoll", workers: 1 };

/// Where the start block says that STUN is, with the ports that it was given.
fn stun_addresses(relay: &mut Relay, clients: &str) -> Vec<SocketAddr> {
    let lines = relay.lines().iter().filter_map(|line| line.strip_prefix("  stun "));
    let address = |line: &str| line.trim().strip_suffix(&format!(" for {clients}"))?.parse().ok();
    lines.map(|line| address(line).unwrap_or_else(|| panic!("an address for {clients} in {line:?}"))).collect()
}

#[test]
fn the_start_block_says_where_and_for_whom() {
    let mut relay = Relay::start(GROUND, &["--stun-listen=127.0.0.1:0,127.0.0.2:0"]);
    let addresses = stun_addresses(&mut relay, "Tailscale's clients");
    assert_eq!(addresses.len(), 2);
    let asker = client("127.0.0.1:0");
    for address in &addresses {
        assert_eq!(mapped(&ask(&asker, &TAILNODE, *address)), asker.local_addr().unwrap());
    }
    asker.send_to(&BARE, addresses[0]).unwrap();
    expect("the counters under derper's names", || {
        relay.all_vars()["stun"]
            == json!({
                "counter_addrfamily": { "ipv4": 2, "ipv6": 0 },
                "counter_requests": { "not_stun": 1, "read_error": 0, "success": 2, "write_error": 0 },
            })
    });

    let mut any = Relay::start(GROUND, &["--stun-listen=127.0.0.1:0", "--stun-any"]);
    let address = stun_addresses(&mut any, "any client")[0];
    assert_eq!(mapped(&ask(&asker, &BARE, address)), asker.local_addr().unwrap());

    let mut off = Relay::start(GROUND, &[]);
    assert!(!off.has_said("  stun "), "--dev has no STUN unless it is asked for");
}

#[test]
fn derpers_flags_start_it_beside_the_main_listener() {
    // The flag wants a number. At this address no other test takes it meanwhile.
    let taken = UdpSocket::bind("127.0.0.30:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    let dir = tempfile::TempDir::new().unwrap();
    let key = dir.path().join("derper.key");
    let mut command = command();
    command.args(["derper", "-a=127.0.0.30:0", "-http-port=-1", &format!("-stun-port={}", address.port())]);
    let mut relay = Relay::spawn(command.arg(format!("-c={}", key.display())));
    let addresses = stun_addresses(&mut relay, "Tailscale's clients");
    assert_eq!(addresses, [address]);
    ask(&client("127.0.0.1:0"), &TAILNODE, addresses[0]);
}

/// derper runs without STUN then, and says nothing.
#[test]
fn a_port_that_is_taken_is_an_error_at_start() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for address in [address, SocketAddr::from(([0, 0, 0, 0], address.port()))] {
        let run = command().args(flags(GROUND)).arg(format!("--stun-listen={address}")).stdin(Stdio::null()).output();
        let run = run.unwrap();
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(status(run.status), 1, "{text}");
        let said: Vec<&str> = text.lines().filter(|line| line.starts_with("derpring: ")).collect();
        assert_eq!(said.len(), 1, "{text}");
        assert!(said[0].starts_with(&format!("derpring: cannot listen on {address} for STUN (UDP): ")), "{text}");
        assert!(said[0].contains("--stun-listen=") && said[0].contains("-stun=false"), "{text}");
    }
}

#[test]
fn it_ends_with_the_relay_and_gives_its_port_back() {
    let mut relay = Relay::start(GROUND, &["--stun-listen=127.0.0.1:0"]);
    let address = stun_addresses(&mut relay, "Tailscale's clients")[0];
    ask(&client("127.0.0.1:0"), &TAILNODE, address);
    assert!(UdpSocket::bind(address).is_err(), "nobody shares a port with it");
    relay.signal(Signal::TERM);
    assert!(relay.wait().success());
    UdpSocket::bind(address).expect("the port is free");
}
