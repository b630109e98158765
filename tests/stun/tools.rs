//! Somebody else's client: `turnutils_stunclient` of Debian's coturn, with `--stun-any` and without.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use derpring::stats::StunResult;
use derpring::stun::Clients;

use crate::relay_support::ground::leave_out;
use crate::support::*;

const TOOL: &str = "turnutils_stunclient";

/// What it printed. It waits for ever for an answer that does not come: `timeout` of coreutils ends it.
fn run(seconds: &str, server: SocketAddr) -> Option<String> {
    let (ip, port) = (server.ip().to_string(), server.port().to_string());
    let output = Command::new("timeout").args([seconds, TOOL, "-p", &port, &ip]).stdin(Stdio::null()).output();
    let output = output.expect("timeout runs");
    match output.status.code() {
        // What timeout says of a program that is not there, and of one that it ended.
        Some(127) => None,
        _ => Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
    }
}

#[test]
fn coturns_client_is_answered_where_any_client_is() {
    let mut listen = vec!["127.0.0.1:0"];
    if has_ipv6() {
        listen.push("[::1]:0");
    }
    let server = Server::start(&listen, Clients::Any);
    for address in &server.addresses {
        let Some(said) = run("20", *address) else {
            return leave_out("coturns_client", "there is no turnutils_stunclient (coturn)", "DERPRING_REQUIRE_TOOLS");
        };
        let wanted = format!("UDP reflexive addr: {}:", address.ip());
        assert!(said.contains(&wanted) || said.contains(&format!("UDP reflexive addr: [{}]:", address.ip())), "{said}");
    }
    // It goes on to ask for an answer from elsewhere only if the first one names such a place, and ours does not.
    server.expect(StunResult::Answered, server.addresses.len() as u64);
}

#[test]
fn coturns_client_is_not_answered_where_only_tailscales_are() {
    let server = Server::start(&["127.0.0.1:0"], Clients::Tailscale);
    let Some(said) = run("3", server.addresses[0]) else {
        return leave_out("coturns_client", "there is no turnutils_stunclient (coturn)", "DERPRING_REQUIRE_TOOLS");
    };
    server.expect(StunResult::NotStun, 1);
    assert!(!said.contains("reflexive"), "{said}");
    assert_eq!(server.stats.count(StunResult::Answered), 0);
}
