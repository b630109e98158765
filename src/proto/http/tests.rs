use super::*;

fn site() -> Site {
    Site { home: HomePage::Default, debug: true }
}

fn ask_at(request: &str, site: &Site, loopback: bool) -> Result<Option<Exchange>, HttpError> {
    let visitor = Visitor { loopback, last: false, vars: &|| "{}".to_owned() };
    next(request.as_bytes(), site, &visitor)
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
    let plain = Upgrade { fast_start: false, not_ideal: false, http10: false };
    assert_eq!(upgrade("Upgrade: DERP\r\n"), plain);
    assert_eq!(upgrade("upgrade: WebSocket\r\n"), plain);
    assert_eq!(upgrade("Upgrade: derp\r\nUpgrade: h2c\r\nContent-Length: 0\r\n"), plain);
    assert_eq!(upgrade("Upgrade: derp\r\nDerp-Fast-Start: 1\r\n"), Upgrade { fast_start: true, ..plain });
    assert_eq!(upgrade("Upgrade: derp\r\nDerp-Fast-Start: 11\r\n"), plain);
    assert_eq!(upgrade("Upgrade: derp\r\nIdeal-Node: 1a\r\n"), Upgrade { not_ideal: true, ..plain });
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
    let request = "GET /derp HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: a, derp\r\n\r\n";
    assert!(reply_at(request, &site(), false).0.starts_with("HTTP/1.1 501 "));
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

    let blank = Site { home: HomePage::Blank, debug: false };
    let (head, body, _) = reply_at("GET /x HTTP/1.1\r\nHost: h\r\n\r\n", &blank, true);
    assert!(head.contains("200 OK\r\nContent-Type: text/html; charset=utf-8\r\n") && body.is_empty());

    let away = Site { home: HomePage::Redirect("https://example.com/?a=1&b".to_owned()), debug: false };
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

#[test]
fn debug_is_for_this_machine_alone() {
    let vars = "GET /debug/vars HTTP/1.1\r\nHost: h\r\n";
    let ok = reply_at(&format!("{vars}\r\n"), &site(), true);
    assert!(ok.0.contains("application/json") && ok.1 == "{}");
    let closed = Site { debug: false, ..site() };
    for (request, site, loopback) in [
        (format!("{vars}\r\n"), site(), false),
        (format!("{vars}\r\n"), closed, true),
        (format!("{vars}X-Forwarded-For: 1.2.3.4\r\n\r\n"), site(), true),
    ] {
        let (head, body, _) = reply_at(&request, &site, loopback);
        assert!(head.starts_with("HTTP/1.1 403 ") && body == "debug access denied\n");
    }
    assert!(get("/debug/pprof").0.starts_with("HTTP/1.1 404 "));
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
        ("GET / HTTP/1.1\r\n\r\n", Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Host),
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
    assert!(reply_at("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", &site(), true).1.contains("CONNECT not enabled"));
}
