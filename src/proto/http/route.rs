//! Which request gets which answer.

use super::debug::{Access, Page, access};
use super::head::Head;
use super::reply::Reply;
use super::{HttpError, Protocol, Site, Upgrade, Visitor, path, websocket};
use crate::config::HomePage;

pub(super) enum Routed {
    Reply(Reply),
    Debug(Page),
    Upgrade(Upgrade),
}

pub(super) fn route(head: &Head<'_>, site: &Site, visitor: Visitor) -> Result<Routed, HttpError> {
    if head.method == "CONNECT" {
        return Ok(Routed::Reply(Reply::text(403, "CONNECT not enabled")));
    }
    if head.target == "*" && head.method == "OPTIONS" {
        return Ok(Routed::Reply(Reply::new(200)));
    }
    let (raw, query) = path::split(head.target).ok_or(HttpError::Malformed)?;
    let decoded = path::decode(raw).ok_or(HttpError::Malformed)?;
    let clean = path::clean(raw).or_else(|| (*decoded == *b"/debug").then(|| "/debug/".to_owned()));
    if let Some(clean) = clean {
        return Ok(Routed::Reply(Reply::redirect(307, path::location(&clean, query), head.method)));
    }
    Ok(Routed::Reply(match &*decoded {
        b"/derp" if site.derp => return Ok(derp(head)),
        b"/derp" => Reply::text(404, "derp server disabled"),
        b"/derp/probe" | b"/derp/latency-check" => probe(head),
        b"/generate_204" => no_content(head),
        b"/robots.txt" => {
            let text = Reply::new(200).header("Content-Type", "text/plain; charset=utf-8");
            text.browser_headers().body("User-agent: *\nDisallow: /\n")
        }
        debug if debug.starts_with(b"/debug/") => return Ok(self::debug(&debug[7..], query, head, site, visitor)),
        _ => home(head, site),
    }))
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

/// Asked by netcheck, and by browsers from any origin.
fn probe(head: &Head<'_>) -> Reply {
    match head.method {
        "GET" | "HEAD" => Reply::new(200).header("Access-Control-Allow-Origin", "*"),
        _ => Reply::text(405, "bogus probe method"),
    }
}

/// The challenge proves to a client that no captive portal made the answer. It goes back into a header, so only
/// harmless characters do.
fn no_content(head: &Head<'_>) -> Reply {
    let reply = Reply::new(204).header("Cache-Control", "no-cache, no-store, must-revalidate, no-transform, max-age=0");
    let harmless = |b: &u8| b.is_ascii_alphanumeric() || b"._:-".contains(b);
    match head.challenge.map(std::str::from_utf8) {
        Some(Ok(challenge)) if (1..=64).contains(&challenge.len()) && challenge.as_bytes().iter().all(harmless) => {
            reply.header("X-Tailscale-Response", format!("response {challenge}"))
        }
        _ => reply,
    }
}

fn debug(page: &[u8], query: Option<&str>, head: &Head<'_>, site: &Site, visitor: Visitor) -> Routed {
    let access = site.debug.as_ref().map_or(Access::No, |rule| access(rule, query, head, visitor.ip));
    let key = match access {
        Access::Yes => None,
        Access::WithKey(key) => Some(key),
        Access::No => return Routed::Reply(Reply::text(403, "debug access denied")),
    };
    Routed::Debug(Page { page: String::from_utf8_lossy(page).into_owned(), key })
}

fn home(head: &Head<'_>, site: &Site) -> Reply {
    let html = Reply::new(200).header("Content-Type", "text/html; charset=utf-8").browser_headers();
    match &site.home {
        HomePage::Default => html.body(HOME),
        HomePage::Blank => html,
        HomePage::Redirect(to) => Reply::redirect(302, to.clone(), head.method).browser_headers(),
    }
}

const HOME: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n\
<head><meta charset=\"utf-8\"><title>DERP relay</title></head>\n\
<body>\n<h1>DERP</h1>\n<p>This is a <a href=\"https://tailscale.com/kb/1232/derp-servers\">DERP</a> relay: it passes \
packets, which stay encrypted from end to end, between nodes that cannot reach each other directly.</p>\n\
</body>\n</html>\n";
