//! What stands in front of a login: proxies, plain HTTP beside TLS, unix sockets, tunnels. On both backends.

#[path = "../edge_support/mod.rs"]
mod edge_support;

mod beside;
mod names;
mod proxied;
mod tunnels;
mod unix;

use std::net::SocketAddr;

use derpring::config::{Cidr, TrustedProxies};

fn both(test: impl Fn(bool)) {
    test(true);
    test(false);
}

fn trusting(ranges: &[&str]) -> TrustedProxies {
    let ranges = ranges.iter().map(|range| Cidr::parse_exact(range).unwrap()).collect();
    TrustedProxies { ranges, unix: false }
}

fn address(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

/// Version 2 for a client at an IPv4 address.
fn proxy_v2(client: &str) -> Vec<u8> {
    let SocketAddr::V4(client) = client.parse().unwrap() else { panic!("an IPv4 address") };
    let mut out = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    out.extend_from_slice(&client.ip().octets());
    out.extend_from_slice(&[127, 0, 0, 1]);
    out.extend_from_slice(&client.port().to_be_bytes());
    out.extend_from_slice(&[1, 187]);
    out
}
