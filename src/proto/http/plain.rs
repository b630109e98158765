//! The listener of plain HTTP beside TLS: captive portal checks, challenges of ACME, and the way to HTTPS.

use super::debug::access;
use super::head::Head;
use super::reply::Reply;
use super::route::{self, Request, Routed};
use super::{Challenge, Challenges, Client, Site, path};

const CHALLENGES: &[u8] = b"/.well-known/acme-challenge/";

pub(super) fn route(request: &Request<'_>, site: &Site, client: Client, challenges: Option<&dyn Challenges>) -> Routed {
    let head = request.head;
    if *request.path == *b"/generate_204" {
        return Routed::Reply(route::no_content(head));
    }
    if let (Some(challenges), Some(token)) = (challenges, request.path.strip_prefix(CHALLENGES)) {
        return Routed::Reply(challenge(challenges, head, token));
    }
    if request.raw.starts_with("/debug") {
        return route::main(request, site, client);
    }
    if !matches!(head.method, "GET" | "HEAD") {
        return Routed::Reply(Reply::text(400, "Use HTTPS"));
    }
    let Some(host) = host(head) else { return Routed::Reply(Reply::text(400, "Use HTTPS")) };
    let open = *request.path == *b"/" && request.query.is_none() && access(site, None, head, client).is_yes();
    let to = if open { "/debug/".to_owned() } else { path::location(request.raw, request.query) };
    Routed::Reply(Reply::redirect(302, format!("https://{host}{to}"), head.method))
}

/// Where the client meant to go.
fn host<'b>(head: &Head<'b>) -> Option<&'b str> {
    let host = match path::authority(head.target) {
        Some(authority) => super::head::host(authority.as_bytes()).ok(),
        None => head.host,
    };
    host.filter(|host| !host.is_empty())
}

/// As the reference's ACME client answers.
fn challenge(challenges: &dyn Challenges, head: &Head<'_>, token: &[u8]) -> Reply {
    let host = host(head).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).to_ascii_lowercase();
    match std::str::from_utf8(token).map_or(Challenge::UnknownToken, |token| challenges.http01(&name, token)) {
        Challenge::Authorization(text) => {
            Reply::new(200).header("Content-Type", "text/plain; charset=utf-8").body(text)
        }
        Challenge::ForeignHost => Reply::text(403, "no certificate is asked for this host"),
        Challenge::UnknownToken => Reply::text(404, "no such challenge"),
    }
}
