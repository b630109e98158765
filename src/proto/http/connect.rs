//! CONNECT: a way to the control plane for clients that can reach a relay and nothing else.

use super::head::Head;
use super::reply::Reply;
use super::route::Routed;
use super::{Door, Site};

/// Only over TLS; elsewhere the reference knows no such method.
pub(super) fn route(head: &Head<'_>, site: &Site, door: Door) -> Routed {
    Routed::Reply(match door {
        Door::Http | Door::Main { tls: false } => Reply::text(404, "404 page not found"),
        Door::Main { tls: true } if !site.connect => Reply::text(403, "CONNECT not enabled"),
        Door::Main { tls: true } => match target(head.target) {
            Some((host, port)) => return Routed::Connect(host.to_owned(), port),
            None => Reply::text(403, "Invalid CONNECT target"),
        },
    })
}

/// Host and port, if they are the control plane's. A relay is not one: nobody is to go through one to the other.
fn target(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = match port {
        "443" => 443,
        "80" => 80,
        _ => return None,
    };
    let named = host.ends_with(".tailscale.com") && !host.contains("derp");
    let name = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    (named && name).then_some((host, port))
}

/// The tunnel is open.
pub const CONNECTED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// The target cannot be reached.
pub fn unreachable() -> Vec<u8> {
    Reply::text(502, "Connect failure").last()
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn targets_of_the_control_plane_alone() {
        assert_eq!(target("controlplane.tailscale.com:443"), Some(("controlplane.tailscale.com", 443)));
        assert_eq!(target("login.tailscale.com:80"), Some(("login.tailscale.com", 80)));
        for other in [
            "controlplane.tailscale.com",
            "controlplane.tailscale.com:22",
            "controlplane.tailscale.com:0443",
            "tailscale.com:443",
            "derp1.tailscale.com:443",
            "a.derp.tailscale.com:443",
            "example.com:443",
            "tailscale.com.example.com:443",
            "a:b.tailscale.com:443",
            "[::1].tailscale.com:443",
            "a/b.tailscale.com:443",
            "a b.tailscale.com:443",
            ":443",
            "",
        ] {
            assert_eq!(target(other), None, "{other}");
        }
    }
}
