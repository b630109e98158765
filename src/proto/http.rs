//! HTTP without I/O: one request head in, what to do about it out.
//!
//! Just enough of HTTP/1 for the upgrade to DERP and for the pages that clients, probers and people ask for. Routes,
//! texts and codes are the reference's; clients and monitoring depend on them.

mod bootstrap;
mod challenge;
mod connect;
mod debug;
mod forwarded;
mod head;
mod home;
mod path;
mod plain;
mod reply;
mod route;
mod websocket;

use std::net::SocketAddr;

use crate::config::{DebugAccess, HomePage, TrustedProxies};
use crate::limits;
use crate::proto::key::NodeKey;

pub use bootstrap::BootstrapRequest;
pub use challenge::{Challenge, Challenges};
pub use connect::{CONNECTED, unreachable};
pub use debug::{DebugRequest, Pending};
use forwarded::Client;
use head::Head;
pub use home::is_tailscales;
use reply::Reply;
pub use websocket::Opening;

/// What the main listener serves.
#[derive(Clone, Debug)]
pub struct Site {
    pub home: HomePage,
    /// Who may see `/debug/`, if anybody.
    pub debug: Option<DebugAccess>,
    /// Whether `/derp` is served.
    pub derp: bool,
    /// Whether CONNECT to the control plane is.
    pub connect: bool,
    /// Whether this is one of Tailscale's own relays, whose home page says whom to tell of abuse.
    pub tailscales: bool,
}

/// Who knows what a route asks for and no configuration says.
#[derive(Clone, Copy, Default)]
pub struct Services<'a> {
    pub challenges: Option<&'a dyn Challenges>,
}

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Main {
        tls: bool,
    },
    /// Plain HTTP beside TLS.
    Http,
}

/// What a request depends on besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    /// The peer's, or that of the PROXY header. `None`: a unix socket has none.
    pub address: Option<SocketAddr>,
    /// Who is believed about the hop before it.
    pub proxies: &'a TrustedProxies,
    pub door: Door,
    /// No request is answered after this one.
    pub last: bool,
}

/// One request, understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Bytes of the head, which the caller removes.
    pub head_len: usize,
    /// Who asks, as far back as proxies are believed.
    pub client: Option<SocketAddr>,
    pub action: Action,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Reply(Answer),
    /// One of the pages that are made elsewhere.
    Debug(DebugRequest),
    BootstrapDns(BootstrapRequest),
    /// The connection is a tunnel to this host and port from here on.
    Connect(String, u16),
    /// The connection is DERP from here on, beginning with the bytes behind the head.
    Upgrade(Upgrade),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub bytes: Vec<u8>,
    /// Bytes of the request's body: to be skipped before the next head. `None`: the connection ends here.
    pub skip: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    pub protocol: Protocol,
    /// The client named an ideal node, which it does only when that is another one.
    pub not_ideal: bool,
}

/// What the connection turns into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `fast_start`: the client knows our key from the certificate, expects no HTTP response, and has sent ClientInfo
    /// already.
    Derp { fast_start: bool },
    /// DERP inside of binary messages.
    WebSocket(Opening),
}

/// Why a request cannot be answered by any route. Always the peer's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    #[error("peer's request is not HTTP")]
    Malformed,
    #[error("peer's request has no Host")]
    NoHost,
    #[error("peer's request has a Host with characters that no host has")]
    Host,
    #[error("peer's request head is longer than {} bytes", limits::HTTP_HEAD_MAX)]
    TooLarge,
    #[error("peer speaks another version of HTTP")]
    Version,
    #[error("peer's request has a body of unknown length")]
    Body,
    #[error("X-Forwarded-For and Forwarded name different clients: a trusted proxy must write or remove both")]
    Forwarded,
}

impl HttpError {
    /// What the peer is told before the connection ends, in the form of Go's server.
    pub fn answer(self) -> Vec<u8> {
        let (status, text) = match self {
            Self::Malformed => (400, "400 Bad Request"),
            Self::NoHost => (400, "400 Bad Request: missing required Host header"),
            Self::Host => (400, "400 Bad Request: malformed Host header"),
            Self::TooLarge => (431, "431 Request Header Fields Too Large"),
            Self::Version => (505, "505 HTTP Version Not Supported: unsupported protocol version"),
            Self::Body => (400, "400 Bad Request: a request body needs a Content-Length"),
            Self::Forwarded => (400, "400 Bad Request: X-Forwarded-For and Forwarded name different clients"),
        };
        Reply::new(status).header("Content-Type", "text/plain; charset=utf-8").body(text).last()
    }
}

/// Reads the head at the front of `buf`. `None`: it is not complete yet.
///
/// # Errors
/// [`HttpError::answer`] is to be sent, then the connection ends.
pub fn next(
    buf: &[u8],
    site: &Site,
    services: Services<'_>,
    visitor: Visitor<'_>,
) -> Result<Option<Exchange>, HttpError> {
    let Some(head) = Head::parse(buf)? else {
        return if buf.len() >= limits::HTTP_HEAD_MAX { Err(HttpError::TooLarge) } else { Ok(None) };
    };
    if head.len > limits::HTTP_HEAD_MAX {
        return Err(HttpError::TooLarge);
    }
    let client = forwarded::client(&head, visitor)?;
    let action = match route::route(&head, site, services, visitor.door, client)? {
        route::Routed::Upgrade(upgrade) => Action::Upgrade(upgrade),
        route::Routed::Debug(page) => Action::Debug(page.of(&head, visitor.last)),
        route::Routed::BootstrapDns(question) => {
            Action::BootstrapDns(question.pending(Pending::of(&head, visitor.last)))
        }
        route::Routed::Connect(host, port) => Action::Connect(host, port),
        route::Routed::Reply(reply) => {
            let skip = head.skip().filter(|_| !visitor.last);
            Action::Reply(Answer { bytes: reply.encode(&head, skip.is_some()), skip })
        }
    };
    Ok(Some(Exchange { head_len: head.len, client: client.address, action }))
}

/// The answer that turns the connection into DERP, for clients that wait for one.
pub fn switching_protocols(server: &NodeKey) -> Vec<u8> {
    let key = server.to_hex();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n\
         Derp-Public-Key: {key}\r\n\r\n"
    )
    .into_bytes()
}

/// Refuses an upgrade for now. Never a 4xx, after which clients would keep to WebSockets.
pub fn unavailable(why: &str) -> Vec<u8> {
    Reply::text(503, why).last()
}

/// For a peer that speaks plain HTTP to the TLS port.
pub const PLAIN_ON_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Whether the first bytes of a connection to the TLS port are those of an HTTP request.
pub fn is_plain_http(first: &[u8; 5]) -> bool {
    matches!(first, b"GET /" | b"HEAD " | b"POST " | b"PUT /" | b"OPTIO" | b"CONNE" | b"DELET" | b"PATCH")
}

#[cfg(test)]
mod tests;
