//! Who is on a connection: its peer, or whom a trusted proxy names.

use std::net::{IpAddr, SocketAddr};

use super::host::Host;
use super::serve::{Edge, Shared};
use super::wire::Wire;
use crate::proto::proxy::{self, Lead};
use crate::stats::CloseReason;

/// Takes the PROXY header off the front of a connection, if there is one, and returns who is behind it.
pub(super) async fn introduction<H: Host>(
    edge: &Edge<H>,
    wire: &mut Wire<H::Stream>,
    peer: Option<SocketAddr>,
) -> Result<Option<SocketAddr>, CloseReason> {
    loop {
        match proxy::lead(&wire.wire_in) {
            Lead::Other => return Ok(peer),
            Lead::Undecided => wire.read().await?,
            Lead::Header => break,
        }
    }
    if !edge.shared.trusts(peer) {
        tell(&edge.shared, peer);
        return Err(CloseReason::UntrustedProxy);
    }
    let header = loop {
        match proxy::parse(&wire.wire_in) {
            Ok(Some(header)) => break header,
            Ok(None) => wire.read().await?,
            Err(error) => {
                tracing::debug!(proxy = peer.map(tracing::field::display), %error, "a proxy's header cannot be used");
                return Err(CloseReason::BadProxyHeader);
            }
        }
    };
    wire.wire_in.drain(..header.len);
    let client = header.client.or(peer);
    place(edge, wire, client);
    Ok(client)
}

/// Whose share of the places before the login a connection takes. A trusted proxy's own connections are those of many
/// clients, of whom nothing is known yet: they take from nobody's share until they are.
pub(super) fn share(shared: &Shared, client: Option<SocketAddr>) -> Option<IpAddr> {
    client.filter(|_| !shared.trusts(client)).map(|client| client.ip())
}

/// Counts a connection under the client that turned out to be behind it.
pub(super) fn place<H: Host>(edge: &Edge<H>, wire: &Wire<H::Stream>, client: Option<SocketAddr>) {
    edge.guests.place(&wire.guest, share(&edge.shared, client));
}

/// Either somebody tries to pass for somebody else, or the operator has left out a flag.
fn tell(shared: &Shared, peer: Option<SocketAddr>) {
    if let Some(left_out) = shared.proxy_lines.pass() {
        let from = peer.map_or_else(|| "unix".to_owned(), |peer| peer.ip().to_string());
        let what = "a connection with a PROXY header was closed: name a proxy of yours with --trusted-proxy";
        tracing::warn!(%from, left_out, "{what}");
    }
}
