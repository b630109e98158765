//! Which request gets which answer.

use std::borrow::Cow;

use super::bootstrap::Question;
use super::debug::{Access, Page, access};
use super::head::Head;
use super::reply::Reply;
use super::{Client, Door, HttpError, Protocol, Services, Site, Upgrade, connect, home, path, plain, websocket};

pub(super) enum Routed {
    Reply(Reply),
    Debug(Page),
    Upgrade(Upgrade),
    BootstrapDns(Question),
    /// To this host and port.
    Connect(String, u16),
}

/// A request whose path is known and clean.
pub(super) struct Request<'a> {
    pub head: &'a Head<'a>,
    /// As it was written.
    pub raw: &'a str,
    pub path: Cow<'a, [u8]>,
    pub query: Option<&'a str>,
}

pub(super) fn route(
    head: &Head<'_>,
    site: &Site,
    services: Services<'_>,
    door: Door,
    client: Client,
) -> Result<Routed, HttpError> {
    if head.method == "CONNECT" {
        return Ok(connect::route(head, site, door));
    }
    if head.target == "*" && head.method == "OPTIONS" {
        return Ok(Routed::Reply(Reply::new(200)));
    }
    let (raw, query) = path::split(head.target).ok_or(HttpError::Malformed)?;
    let path = path::decode(raw).ok_or(HttpError::Malformed)?;
    let clean = path::clean(raw).or_else(|| (*path == *b"/debug" && door != Door::Http).then(|| "/debug/".to_owned()));
    if let Some(clean) = clean {
        return Ok(Routed::Reply(Reply::redirect(307, path::location(&clean, query), head.method)));
    }
    let request = Request { head, raw, path, query };
    Ok(match door {
        Door::Http => plain::route(&request, site, client, services.challenges),
        Door::Main { .. } => main(&request, site, client),
    })
}

/// The routes of the main listener.
pub(super) fn main(request: &Request<'_>, site: &Site, client: Client) -> Routed {
    let Request { head, query, .. } = *request;
    Routed::Reply(match &*request.path {
        b"/derp" if site.derp => return derp(head),
        b"/derp" => Reply::text(404, "derp server disabled"),
        b"/derp/probe" | b"/derp/latency-check" => probe(head),
        b"/generate_204" => no_content(head),
        b"/bootstrap-dns" => return Routed::BootstrapDns(Question::of(query)),
        b"/robots.txt" => {
            let text = Reply::new(200).header("Content-Type", "text/plain; charset=utf-8");
            text.browser_headers().body("User-agent: *\nDisallow: /\n")
        }
        b"/debug" => Reply::redirect(307, path::location("/debug/", query), head.method),
        page if page.starts_with(b"/debug/") => return debug(&page[7..], query, head, site, client),
        _ => home::page(head, site, client),
    })
}

/// Method, Connection header and HTTP version do not matter to the reference, and proxies garble them.
fn derp(head: &Head<'_>) -> Routed {
    let upgrade = head.upgrade.unwrap_or_default().to_ascii_lowercase();
    let not_ideal = head.ideal_node.is_some_and(|node| !node.is_empty());
    let over_websocket = head.websocket_protocol.is_some_and(|p| p.windows(4).any(|w| w == b"derp"));
    match &*upgrade {
        b"websocket" if over_websocket => match websocket::open(head) {
            Ok(opening) => Routed::Upgrade(Upgrade { protocol: Protocol::WebSocket(opening), not_ideal }),
            Err(reply) => Routed::Reply(reply),
        },
        b"derp" | b"websocket" => {
            let fast_start = head.fast_start == Some(b"1");
            Routed::Upgrade(Upgrade { protocol: Protocol::Derp { fast_start }, not_ideal })
        }
        _ => Routed::Reply(Reply::text(426, "DERP requires connection upgrade")),
    }
}

/// Asked by netcheck, and by browsers from any origin. They ask beforehand once a page adds a header of its own, which
/// the reference refuses: then latency could not be measured.
fn probe(head: &Head<'_>) -> Reply {
    match head.method {
        "GET" | "HEAD" => Reply::new(200).header("Access-Control-Allow-Origin", "*"),
        "OPTIONS" => Reply::new(204)
            .header("Access-Control-Allow-Origin", "*")
            .header("Access-Control-Allow-Methods", "GET, HEAD")
            .header("Access-Control-Allow-Headers", "*")
            .header("Access-Control-Max-Age", "86400"),
        _ => Reply::text(405, "bogus probe method"),
    }
}

/// The challenge proves to a client that no captive portal made the answer. It goes back into a header, so only
/// harmless characters do.
pub(super) fn no_content(head: &Head<'_>) -> Reply {
    let reply = Reply::new(204).header("Cache-Control", "no-cache, no-store, must-revalidate, no-transform, max-age=0");
    let harmless = |b: &u8| b.is_ascii_alphanumeric() || b"._:-".contains(b);
    match head.challenge.map(std::str::from_utf8) {
        Some(Ok(challenge)) if (1..=64).contains(&challenge.len()) && challenge.as_bytes().iter().all(harmless) => {
            reply.header("X-Tailscale-Response", format!("response {challenge}"))
        }
        _ => reply,
    }
}

fn debug(page: &[u8], query: Option<&str>, head: &Head<'_>, site: &Site, client: Client) -> Routed {
    let key = match access(site, query, head, client) {
        Access::Yes => None,
        Access::WithKey(key) => Some(key),
        Access::No => return Routed::Reply(Reply::text(403, "debug access denied")),
    };
    Routed::Debug(Page { page: String::from_utf8_lossy(page).into_owned(), key })
}
