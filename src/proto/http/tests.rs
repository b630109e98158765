use super::*;
use crate::config::Cidr;

pub(super) fn site() -> Site {
    Site { home: HomePage::Default, debug: Some(DebugAccess::default()), derp: true, connect: false, tailscales: false }
}

pub(super) fn trusted() -> TrustedProxies {
    let ranges = ["10.0.0.0/8", "2001:db8:1::/48"].map(|range| Cidr::parse_exact(range).unwrap());
    TrustedProxies { ranges: ranges.into(), unix: true }
}

const MAIN: Door = Door::Main { tls: true };

fn at(request: &str, site: &Site, ip: &str, door: Door) -> Result<Option<Exchange>, HttpError> {
    let services = Services { challenges: Some(&Acme) };
    let address = Some(SocketAddr::new(ip.parse().unwrap(), 1));
    next(request.as_bytes(), site, services, Visitor { address, proxies: &trusted(), door, last: false })
}

fn ask_at(request: &str, site: &Site, loopback: bool) -> Result<Option<Exchange>, HttpError> {
    at(request, site, if loopback { "127.0.0.1" } else { "192.0.2.1" }, MAIN)
}

/// Knows one token of one host.
struct Acme;

impl Challenges for Acme {
    fn http01(&self, host: &str, token: &str) -> Challenge {
        match (host, token) {
            ("relay.example" | "2001:db8::1", "tok-1") => Challenge::Authorization("tok-1.thumb".into()),
            ("relay.example", _) => Challenge::UnknownToken,
            _ => Challenge::ForeignHost,
        }
    }
}

fn ask(request: &str) -> Result<Option<Exchange>, HttpError> {
    ask_at(request, &site(), true)
}

/// Status line and headers, body, bytes to skip.
fn reply_at(request: &str, site: &Site, loopback: bool) -> (String, String, Option<u64>) {
    match ask_at(request, site, loopback).unwrap().unwrap().action {
        Action::Reply(answer) => {
            let text = String::from_utf8(answer.bytes).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            (head.to_owned(), body.to_owned(), answer.skip)
        }
        other => panic!("{request}: {other:?}"),
    }
}

fn get(path: &str) -> (String, String, Option<u64>) {
    reply_at(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"), &site(), true)
}

fn upgrade(headers: &str) -> Upgrade {
    match ask(&format!("GET /derp HTTP/1.1\r\nHost: h\r\n{headers}\r\n")).unwrap().unwrap().action {
        Action::Upgrade(upgrade) => upgrade,
        other => panic!("{headers}: {other:?}"),
    }
}

#[test]
fn every_prefix_of_a_head_waits_for_more() {
    let request = "GET /derp HTTP/1.1\r\nHost: h\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n";
    for cut in 0..request.len() {
        assert_eq!(ask(&request[..cut]), Ok(None), "{cut}");
    }
    let exchange = ask(&format!("{request}\x02\0")).unwrap().unwrap();
    assert_eq!(exchange.head_len, request.len());
}

#[test]
fn derp_upgrades_whatever_the_rest_says() {
    let derp = |fast_start, not_ideal| Upgrade { protocol: Protocol::Derp { fast_start }, not_ideal };
    let plain = derp(false, false);
    assert_eq!(upgrade("Upgrade: DERP\r\n"), plain);
    assert_eq!(upgrade("upgrade: WebSocket\r\n"), plain);
    assert_eq!(upgrade("Upgrade: derp\r\nUpgrade: h2c\r\nContent-Length: 0\r\n"), plain);
    assert_eq!(upgrade("Upgrade: derp\r\nDerp-Fast-Start: 1\r\n"), derp(true, false));
    assert_eq!(upgrade("Upgrade: derp\r\nDerp-Fast-Start: 11\r\n"), plain);
    assert_eq!(upgrade("Upgrade: derp\r\nIdeal-Node: 1a\r\n"), derp(false, true));
    assert_eq!(upgrade("Upgrade: derp\r\nIdeal-Node:\r\n"), plain);
    assert!(matches!(
        ask("POST /%64erp HTTP/1.0\r\nUpgrade: derp\r\n\r\n").unwrap().unwrap().action,
        Action::Upgrade(_)
    ));
}

#[test]
fn derp_without_a_fitting_upgrade_is_426() {
    for headers in ["", "Upgrade: h2c\r\n", "Upgrade: derp, websocket\r\n", "Upgrade: h2c\r\nUpgrade: derp\r\n"] {
        let (head, body, _) = reply_at(&format!("GET /derp HTTP/1.1\r\nHost: h\r\n{headers}\r\n"), &site(), false);
        assert!(head.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{headers}");
        assert_eq!(body, "DERP requires connection upgrade\n");
        assert!(head.contains("\r\nX-Content-Type-Options: nosniff\r\n"));
    }
}

#[test]
fn websocket_with_the_derp_protocol_is_not_raw_derp() {
    let protocol = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: a, derp\r\n";
    let request = format!("GET /derp HTTP/1.1\r\nHost: h\r\n{protocol}\r\n");
    assert!(reply_at(&request, &site(), false).0.starts_with("HTTP/1.1 400 "), "half a handshake");
    let rest = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nIdeal-Node: 1a\r\n";
    let Upgrade { protocol: Protocol::WebSocket(opening), not_ideal } = upgrade(&format!("{protocol}{rest}")) else {
        panic!("an upgrade to WebSocket");
    };
    assert_eq!((opening.subprotocol.as_deref(), not_ideal), (Some("derp"), true));
}

#[test]
fn probes() {
    for path in ["/derp/probe", "/derp/latency-check", "/derp/probe?x=1", "http://h/derp/probe"] {
        let (head, body, skip) = get(path);
        assert_eq!(head, "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0");
        assert_eq!((body.as_str(), skip), ("", Some(0)));
        let (head, body, skip) =
            reply_at(&format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n"), &site(), true);
        assert!(head.starts_with("HTTP/1.1 405 "));
        assert_eq!((body.as_str(), skip), ("bogus probe method\n", Some(7)));
    }
}

#[test]
fn captive_portal_check_echoes_only_harmless_challenges() {
    let with = |value: &str| {
        reply_at(
            &format!("GET /generate_204 HTTP/1.1\r\nHost: h\r\nX-Tailscale-Challenge: {value}\r\n\r\n"),
            &site(),
            true,
        )
    };
    let plain =
        "HTTP/1.1 204 No Content\r\nCache-Control: no-cache, no-store, must-revalidate, no-transform, max-age=0";
    let echoed = format!("{plain}\r\nX-Tailscale-Response: response ts_-1.2:Z");
    assert_eq!(with("ts_-1.2:Z"), (echoed, String::new(), Some(0)));
    for odd in ["", "a b", "a\tb", "<a>", &"a".repeat(65), "\u{e4}"] {
        assert_eq!(with(odd).0, plain, "{odd:?}");
    }
    assert!(with(&"a".repeat(64)).0.ends_with("aaaa"));
}

#[test]
fn pages() {
    let (head, body, _) = get("/");
    assert!(head.contains("Strict-Transport-Security: max-age=63072000; includeSubDomains\r\n"));
    assert!(head.contains("X-Frame-Options: DENY\r\n") && body.contains("DERP"));
    assert_eq!(get("/derp/").1, body);
    assert_eq!(get("/nothing/here").1, body);
    assert_eq!(get("/robots.txt").1, "User-agent: *\nDisallow: /\n");

    let blank = Site { home: HomePage::Blank, debug: None, ..site() };
    let (head, body, _) = reply_at("GET /x HTTP/1.1\r\nHost: h\r\n\r\n", &blank, true);
    assert!(head.contains("200 OK\r\nContent-Type: text/html; charset=utf-8\r\n") && body.is_empty());

    let away = Site { home: HomePage::Redirect("https://example.com/?a=1&b".to_owned()), debug: None, ..site() };
    let (head, body, _) = reply_at("GET /x HTTP/1.1\r\nHost: h\r\n\r\n", &away, true);
    assert!(head.starts_with("HTTP/1.1 302 Found\r\n") && head.contains("Location: https://example.com/?a=1&b\r\n"));
    assert_eq!(body, "<a href=\"https://example.com/?a=1&amp;b\">Found</a>.\n\n");
}

#[test]
fn head_has_the_length_but_no_body() {
    let (head, body, skip) = reply_at("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", &site(), true);
    assert_eq!((body.as_str(), skip), ("", Some(0)));
    assert!(head.contains(&format!("Content-Length: {}", get("/").1.len())));
}

#[test]
fn unclean_paths_are_redirected_and_never_off_this_host() {
    for (path, to) in [
        ("//derp", "/derp"),
        ("/a/../b?q=1", "/b?q=1"),
        ("/debug", "/debug/"),
        ("//evil.example/..//x", "/evil.example/../x"),
        ("/x/../\\evil.example", "/%5Cevil.example"),
    ] {
        let (head, ..) = get(path);
        assert!(head.starts_with("HTTP/1.1 307 Temporary Redirect\r\n"), "{path}");
        let to = if path.starts_with("//evil") { "/x" } else { to };
        assert!(head.contains(&format!("\r\nLocation: {to}\r\n")), "{path}: {head}");
    }
}

/// Page and key of a request that is let through to the pages; `None`: it is refused.
fn debug(request: &str, site: &Site, loopback: bool) -> Option<(String, Option<String>)> {
    match ask_at(request, site, loopback).unwrap().unwrap().action {
        Action::Debug(debug) => Some((debug.page, debug.key)),
        Action::Reply(answer) => {
            let text = String::from_utf8(answer.bytes).unwrap();
            let body = if request.starts_with("HEAD") { "" } else { "debug access denied\n" };
            assert!(text.starts_with("HTTP/1.1 403 ") && text.ends_with(&format!("\r\n\r\n{body}")), "{text}");
            None
        }
        other => panic!("{request}: {other:?}"),
    }
}

#[test]
fn debug_is_for_this_machine_alone() {
    let vars = "GET /debug/vars?x HTTP/1.1\r\nHost: h\r\n";
    assert_eq!(debug(&format!("{vars}\r\n"), &site(), true), Some(("vars".into(), None)));
    let closed = Site { debug: None, ..site() };
    assert_eq!(debug(&format!("{vars}\r\n"), &site(), false), None);
    assert_eq!(debug(&format!("{vars}\r\n"), &closed, true), None);
    assert_eq!(debug(&format!("{vars}X-Forwarded-For: 127.0.0.1\r\n\r\n"), &site(), true), None);
    assert_eq!(debug("GET /debug/ HTTP/1.1\r\nHost: h\r\n\r\n", &site(), true), Some((String::new(), None)));
}

#[test]
fn the_debug_key_opens_from_anywhere_by_get_alone() {
    let keyed = Site { debug: Some(DebugAccess { key_file: Some("/k".into()), ..DebugAccess::default() }), ..site() };
    let ask = |method: &str, query: &str, site: &Site| {
        let request = format!("{method} /debug/varz?{query} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n");
        debug(&request, site, false).map(|(page, key)| {
            assert_eq!(page, "varz");
            key.unwrap()
        })
    };
    assert_eq!(ask("GET", "a=b&debugkey=%73ec+ret&debugkey=x", &keyed).as_deref(), Some("sec ret"));
    for (method, query) in [
        ("POST", "debugkey=a"),
        ("HEAD", "debugkey=a"),
        ("GET", "debugkey="),
        ("GET", "key=a"),
        ("GET", "debugkey=%ff"),
        ("GET", "debugkey=%f"),
    ] {
        assert_eq!(ask(method, query, &keyed), None, "{method} {query}");
    }
    assert_eq!(ask("GET", "debugkey=a", &site()), None, "there is no key");
}

#[test]
fn answers_made_elsewhere_have_their_form_here() {
    let pending = |request: &str| match ask(request).unwrap().unwrap().action {
        Action::Debug(debug) => debug.pending,
        other => panic!("{other:?}"),
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let mut get = pending("GET /debug/traffic HTTP/1.1\r\nHost: h\r\n\r\n");
    let whole = text(get.whole(500, "text/plain", "no".into()));
    assert!(whole.starts_with("HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n"), "{whole}");
    assert!(
        whole.contains("style-src 'self' 'unsafe-inline'\r\n") && whole.ends_with("Length: 2\r\n\r\nno"),
        "{whole}"
    );
    let head = text(get.stream("text/plain"));
    assert!(head.ends_with("\r\nTransfer-Encoding: chunked\r\n\r\n"), "{head}");
    assert_eq!(text([get.part(&[b'x'; 17]), get.part(b"")].concat()), format!("11\r\n{}\r\n0\r\n\r\n", "x".repeat(17)));
    assert_eq!(get.skip, Some(0));

    let mut old = pending("GET /debug/traffic HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let head = text(old.stream("text/plain"));
    assert!(!head.contains("keep-alive") && !head.contains("Length") && !head.contains("chunked"), "{head}");
    assert_eq!((text([old.part(b"ab"), old.part(b"")].concat()), old.skip), ("ab".into(), None));
    let head = pending("HEAD /debug/vars HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(text(head.whole(200, "text/plain", "body".into())).ends_with("Content-Length: 4\r\n\r\n"));
    assert!(text(head.text(403, "debug access denied")).starts_with("HTTP/1.1 403 Forbidden\r\n"));
}

#[test]
fn connections_persist_as_the_versions_say() {
    let with = |version: &str, headers: &str| {
        let (head, _, skip) = reply_at(&format!("GET / HTTP/{version}\r\nHost: h\r\n{headers}\r\n"), &site(), true);
        (skip, head.contains("Connection: close"), head.contains("Connection: keep-alive"))
    };
    assert_eq!(with("1.1", ""), (Some(0), false, false));
    assert_eq!(with("1.1", "Connection: foo, Close\r\n"), (None, true, false));
    assert_eq!(with("1.0", ""), (None, false, false));
    assert_eq!(with("1.0", "Connection: Keep-Alive\r\n"), (Some(0), false, true));
    assert_eq!(with("1.1", "Content-Length: 10\r\n"), (Some(10), false, false));
    assert_eq!(with("1.1", "Content-Length: 10\r\nExpect: 100-continue\r\n"), (None, true, false));
    assert_eq!(with("1.1", &format!("Content-Length: {}\r\n", limits::HTTP_BODY_MAX + 1)), (None, true, false));
    assert!(reply_at("GET / HTTP/1.0\r\n\r\n", &site(), true).0.starts_with("HTTP/1.0 200 OK\r\n"));
}

#[test]
fn what_is_not_a_request_is_an_error_with_an_answer() {
    use HttpError::*;
    for (request, error) in [
        ("GET / HTTP/1.1\r\n\r\n", NoHost),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: \u{e4}\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n folded\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", Malformed),
        ("\x16\x03\x01\x02\0", Malformed),
        ("GET derp HTTP/1.1\r\nHost: h\r\n\r\n", Malformed),
        ("GET /%2 HTTP/1.1\r\nHost: h\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Malformed),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", Body),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Version),
    ] {
        assert_eq!(ask(request), Err(error), "{request}");
        let answer = String::from_utf8(error.answer()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 ") && answer.contains("\r\nConnection: close\r\n"));
    }
    assert_eq!(ask(&format!("GET /{}", "a".repeat(limits::HTTP_HEAD_MAX))), Err(TooLarge));
    let many = "a: b\r\n".repeat(limits::HTTP_HEADERS_MAX + 1);
    assert_eq!(ask(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Err(TooLarge));
}

fn at_http(request: &str, site: &Site, ip: &str) -> (String, String) {
    match at(request, site, ip, Door::Http).unwrap().unwrap().action {
        Action::Reply(answer) => {
            let text = String::from_utf8(answer.bytes).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            (head.to_owned(), body.to_owned())
        }
        other => panic!("{request}: {other:?}"),
    }
}

#[test]
fn plain_http_beside_tls_leads_to_it() {
    let stranger = "192.0.2.1";
    for (request, to) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "https://h/"),
        ("GET /derp/probe?a=b%20c HTTP/1.1\r\nHost: h:80\r\n\r\n", "https://h:80/derp/probe?a=b%20c"),
        ("GET /derp HTTP/1.1\r\nHost: h\r\nUpgrade: DERP\r\n\r\n", "https://h/derp"),
        ("HEAD /robots.txt HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "https://[::1]:80/robots.txt"),
        ("GET http://other.example/x?y HTTP/1.1\r\nHost: h\r\n\r\n", "https://other.example/x?y"),
        ("GET /x\"<>' HTTP/1.1\r\nHost: h\r\n\r\n", "https://h/x%22%3C%3E%27"),
        ("GET /.well-known/acme-challenge HTTP/1.1\r\nHost: h\r\n\r\n", "https://h/.well-known/acme-challenge"),
    ] {
        let (head, body) = at_http(request, &site(), stranger);
        assert!(head.starts_with("HTTP/1.1 302 Found\r\n"), "{request}: {head}");
        assert!(head.contains(&format!("\r\nLocation: {to}\r\n")), "{request}: {head}");
        assert_eq!(body.is_empty(), request.starts_with("HEAD"));
    }
    let (head, _) = at_http("GET //derp HTTP/1.1\r\nHost: h\r\n\r\n", &site(), stranger);
    assert!(head.starts_with("HTTP/1.1 307 ") && head.contains("\r\nLocation: /derp\r\n"), "{head}");
    for request in ["POST / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost:\r\n\r\n"] {
        let (head, body) = at_http(request, &Site { connect: true, ..site() }, stranger);
        assert!(head.contains(" 400 Bad Request\r\n") && body == "Use HTTPS\n", "{request}: {head}");
    }
    let check = "POST /generate_204 HTTP/1.1\r\nHost: h\r\nX-Tailscale-Challenge: c\r\n\r\n";
    let (head, _) = at_http(check, &site(), stranger);
    assert!(head.starts_with("HTTP/1.1 204 ") && head.ends_with("X-Tailscale-Response: response c"), "{head}");
}

#[test]
fn debug_pages_in_plain_http_for_whom_they_are() {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    let (head, _) = at_http(&get("/"), &site(), "127.0.0.1");
    assert!(head.contains("\r\nLocation: https://h/debug/\r\n"), "{head}");
    let (head, _) = at_http(&get("/?x"), &site(), "127.0.0.1");
    assert!(head.contains("\r\nLocation: https://h/?x\r\n"), "{head}");
    let (head, _) = at_http(&get("/debug?x"), &site(), "127.0.0.1");
    assert!(head.starts_with("HTTP/1.1 307 ") && head.contains("\r\nLocation: /debug/?x\r\n"), "{head}");
    let (head, _) = at_http(&get("/debug/vars"), &site(), "192.0.2.1");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let vars = at(&get("/debug/vars"), &site(), "127.0.0.1", Door::Http).unwrap().unwrap().action;
    assert!(matches!(vars, Action::Debug(page) if page.page == "vars"));
}

#[test]
fn challenges_of_acme_in_plain_http_alone() {
    let get =
        |host: &str, token: &str| format!("GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for host in ["relay.example", "Relay.Example:80", "[2001:db8::1]:80", "[2001:db8::1]"] {
        let (head, body) = at_http(&get(host, "tok-1"), &site(), "192.0.2.1");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"), "{host}: {head}");
        assert_eq!(body, "tok-1.thumb");
    }
    assert!(at_http(&get("relay.example", "tok-2"), &site(), "192.0.2.1").0.starts_with("HTTP/1.1 404 "));
    assert!(at_http(&get("relay.example", "%ff"), &site(), "192.0.2.1").0.starts_with("HTTP/1.1 404 "));
    assert!(at_http(&get("other.example", "tok-1"), &site(), "192.0.2.1").0.starts_with("HTTP/1.1 403 "));
    assert!(reply_at(&get("relay.example", "tok-1"), &site(), false).1.contains("DERP"), "the home page");
}

#[test]
fn the_home_page_says_what_it_is_told_to() {
    let page = |change: fn(&mut Site), loopback: bool| {
        let mut site = site();
        change(&mut site);
        reply_at("GET / HTTP/1.1\r\nHost: h\r\n\r\n", &site, loopback).1
    };
    let plain = page(|_| {}, false);
    assert!(!plain.contains("disabled") && !plain.contains("/debug/") && !plain.contains("abuse"), "{plain}");
    assert!(page(|_| {}, true).contains("<a href=\"/debug/\">"));
    assert!(!page(|site| site.debug = None, true).contains("/debug/"));
    assert!(page(|site| site.derp = false, false).contains("disabled"));
    assert!(page(|site| site.tailscales = true, false).contains("mailto:security@tailscale.com"));
}

#[test]
fn connect_is_for_tls_and_the_control_plane() {
    let ask = |target: &str, connect: bool, door: Door| {
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        match at(&request, &Site { connect, ..site() }, "192.0.2.1", door).unwrap().unwrap().action {
            Action::Reply(answer) => String::from_utf8(answer.bytes).unwrap(),
            Action::Connect(host, port) => format!("{host} {port}"),
            other => panic!("{other:?}"),
        }
    };
    let plane = "controlplane.tailscale.com:443";
    assert_eq!(ask(plane, true, MAIN), "controlplane.tailscale.com 443");
    let refused = ask("example.com:443", true, MAIN);
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.ends_with("\r\n\r\nInvalid CONNECT target\n"), "{refused}");
    assert!(ask(plane, false, MAIN).ends_with("\r\n\r\nCONNECT not enabled\n"));
    for door in [Door::Main { tls: false }, Door::Http] {
        let answer = ask(plane, true, door);
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("\r\n\r\n404 page not found\n"), "{answer}");
    }
}

#[test]
fn behind_a_trusted_proxy_the_clients_address_decides() {
    let get = |header: &str| format!("GET /debug/vars HTTP/1.1\r\nHost: h\r\n{header}\r\n");
    let opens = |ip: &str, header: &str| {
        let action = at(&get(header), &site(), ip, MAIN).unwrap().unwrap().action;
        matches!(action, Action::Debug(_))
    };
    assert!(opens("10.0.0.1", "X-Forwarded-For: 127.0.0.1\r\n"), "the proxy says that it is local");
    assert!(!opens("10.0.0.1", "X-Forwarded-For: 127.0.0.1, 192.0.2.1\r\n"), "what the client says is not believed");
    assert!(!opens("10.0.0.1", "X-Forwarded-For: 127.0.0.1, unknown\r\n"));
    assert!(!opens("127.0.0.1", "X-Forwarded-For: 127.0.0.1\r\n"), "a proxy that we were not told of");
    assert!(!opens("127.0.0.1", "Forwarded: for=127.0.0.1\r\n"));
    assert!(opens("127.0.0.1", ""));

    let local = Site {
        debug: Some(DebugAccess { trusted: vec![Cidr::parse_exact("10.0.0.1").unwrap()], ..DebugAccess::default() }),
        ..site()
    };
    let silent = at(&get(""), &local, "10.0.0.1", MAIN).unwrap().unwrap().action;
    assert!(matches!(silent, Action::Reply(_)), "a proxy that does not say for whom it asks");
}

#[test]
fn browsers_may_ask_before_they_probe() {
    for path in ["/derp/probe", "/derp/latency-check"] {
        let request = format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example\r\n\
             Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: x-a\r\n\r\n"
        );
        let (head, body, skip) = reply_at(&request, &site(), false);
        assert!(head.starts_with("HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: *\r\n"), "{head}");
        assert!(head.contains("Access-Control-Allow-Methods: GET, HEAD\r\n") && !head.contains("Length"), "{head}");
        assert_eq!((body.as_str(), skip), ("", Some(0)));
    }
}

#[test]
fn questions_for_addresses_end_their_connection() {
    let ask = |query: &str, version: &str| {
        let request = format!("GET /bootstrap-dns{query} HTTP/{version}\r\nHost: h\r\n\r\n");
        match ask(&request).unwrap().unwrap().action {
            Action::BootstrapDns(request) => {
                let name = request.name.clone();
                (name, String::from_utf8(request.answer("{}".into())).unwrap())
            }
            other => panic!("{other:?}"),
        }
    };
    let (name, answer) = ask("", "1.1");
    assert_eq!(name, None);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"), "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n") && answer.ends_with("\r\n\r\n{}"), "{answer}");
    assert!(answer.contains("object-src 'none'\r\n") && answer.contains("Strict-Transport-Security"), "{answer}");
    assert_eq!(ask("?q=login.example&x", "1.0").0.as_deref(), Some("login.example"));
    assert_eq!(ask("?x=1&q=a%2Eb+c", "1.1").0.as_deref(), Some("a.b c"));
    assert_eq!(ask("?q=", "1.1").0, None);
}
