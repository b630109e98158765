//! Every page: its form, what it takes, what it refuses.

use std::net::TcpListener;
use std::process::Stdio;

use crate::http::*;
use crate::relay_support::process::{command, flags, status};
use crate::relay_support::*;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json; charset=utf-8";

#[test]
fn every_page_answers_get_and_head_and_refuses_others() {
    once("every_page_answers_get_and_head_and_refuses_others", || {
        let relay = start(&[]);
        let to = admin(&relay);
        let _client = visit(&relay).log_in();
        for (path, content_type, part) in [
            ("/", "text/plain; version=0.0.4; charset=utf-8", "# TYPE coder_derp_server_"),
            ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "derpring_worker_sessions{worker=\"0\"}"),
            ("/debug/", "text/html; charset=utf-8", "<th>Mesh key<td>false"),
            ("/debug/vars", JSON, "\"gauge_current_connections\""),
            ("/debug/varz", "text/plain;version=0.0.4;charset=utf-8", "derp_current_connections 1"),
            ("/debug/clients", JSON, "\"connected\":1"),
            ("/debug/check", TEXT, "okay"),
            ("/debug/log", TEXT, "info"),
            ("/healthz", TEXT, "ok"),
            ("/readyz", TEXT, "ok"),
        ] {
            let answer = get(to, path);
            assert_eq!((answer.status, answer.header("content-type")), (200, Some(content_type)), "{path}");
            assert!(answer.body.contains(part), "{path}: expected {part:?} in {}", answer.body);
            assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()), "{path}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
            let head = ask(to, "HEAD", path, &[], "");
            assert_eq!((head.status, head.header("content-type")), (200, Some(content_type)), "HEAD {path}");
            assert_eq!(head.body, "", "HEAD {path}");
            assert!(head.header("content-length").is_some(), "HEAD {path}");
            let refused = ask(to, "DELETE", path, &[], "");
            let allow = if path == "/debug/log" { "GET, HEAD, PUT, POST" } else { "GET, HEAD" };
            assert_eq!((refused.status, refused.header("allow")), (405, Some(allow)), "DELETE {path}");
        }
        assert_eq!(ask(to, "HEAD", "/debug/traffic", &[], "").status, 200);
        assert_eq!(ask(to, "POST", "/debug/traffic", &[], "x").status, 405);
        for path in ["/nothing", "/debug/pprof", "/debug/clients/", "/metrics/", "//"] {
            assert_eq!(get(to, path).status, 404, "{path}");
        }
        let moved = get(to, "/debug");
        assert_eq!((moved.status, moved.header("location")), (307, Some("/debug/")));
    });
}

#[test]
fn metrics_come_in_the_form_that_is_asked_for() {
    once("metrics_come_in_the_form_that_is_asked_for", || {
        let relay = start(&[]);
        let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.9,text/plain;version=0.0.4;q=0.5";
        for path in ["/", "/metrics"] {
            let answer = ask(admin(&relay), "GET", path, &[accept], "");
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            assert_eq!((answer.status, answer.header("content-type")), (200, Some(content_type)));
            assert!(answer.body.ends_with("# EOF\n"), "{path}");
        }
        let html = "Accept: text/html,application/xhtml+xml";
        let answer = ask(admin(&relay), "GET", "/debug/clients", &[html], "");
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(answer.body.contains("<table>"));
    });
}

#[test]
fn bad_parameters_are_named() {
    once("bad_parameters_are_named", || {
        let relay = start(&[]);
        let answer = get(admin(&relay), "/debug/clients?sort=size");
        assert_eq!(answer.status, 400);
        assert!(answer.body.starts_with("400: sort=size: give key, address, worker, "), "{}", answer.body);
        assert_eq!(get(admin(&relay), "/debug/clients?nonsense").status, 400);
        assert_eq!(get(admin(&relay), "/debug/clients?key=%").status, 400);
    });
}

/// Scrapers keep their connection.
#[test]
fn a_connection_takes_one_request_after_another() {
    use std::io::{Read, Write};
    once("a_connection_takes_one_request_after_another", || {
        let relay = start(&[]);
        let mut stream = connect(admin(&relay));
        let mut buf = Vec::new();
        for n in 1..=3 {
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            while buf.windows(7).filter(|w| w == b"\r\n\r\nok\n").count() < n {
                let mut part = [0; 1024];
                let len = stream.read(&mut part).unwrap();
                assert_ne!(len, 0, "the relay ended it after {n}");
                buf.extend_from_slice(&part[..len]);
            }
        }
    });
}

#[test]
fn it_listens_on_all_addresses_or_says_which_it_cannot_have() {
    once("it_listens_on_all_addresses_or_says_which_it_cannot_have", || {
        let mut relay = Relay::spawn(command().args(flags(GROUND)).arg("--admin-listen=127.0.0.1:0,127.0.0.2:0"));
        let lines = relay.lines().iter().filter_map(|line| line.trim().strip_prefix("admin "));
        let addresses = lines.map(|line| line.trim().trim_start_matches("http://").trim_end_matches('/').to_owned());
        let addresses: Vec<String> = addresses.collect();
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        for address in &addresses {
            assert_eq!(get(address.parse().unwrap(), "/readyz").status, 200, "{address}");
        }
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        for address in [addresses[0].clone(), taken.local_addr().unwrap().to_string()] {
            let run = command().args(flags(GROUND)).args(["--admin-listen", &address]).stdin(Stdio::null()).output();
            let run = run.unwrap();
            let text = String::from_utf8_lossy(&run.stderr).into_owned();
            assert_eq!(status(run.status), 1, "{text}");
            let wanted = format!("derpring: cannot listen on http://{address}/ for the admin pages: ");
            let last = text.lines().last().unwrap_or_default();
            assert!(last.starts_with(&wanted) && last.contains("--admin-listen"), "{text}");
        }
        assert_eq!(get(addresses[0].parse().unwrap(), "/readyz").status, 200);
    });
}
