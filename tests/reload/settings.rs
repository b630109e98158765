//! What a reload takes over, and what it leaves to the next start.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;

use rustix::process::Signal;

use super::place::{Place, status_of};
use crate::relay_support::frames::recv_packet;
use crate::relay_support::*;

/// A client from before goes on through every kind of change.
#[test]
fn pages_and_access_change_under_a_client() {
    let place = Place::new();
    let text = |more: &str| format!("cert.mode = \"none\"\n{more}");
    let mut relay = place.start(&text(""), &[]);
    let (mut a, mut b) = (visit(&relay.relay).log_in(), visit(&relay.relay).log_in());
    let mut still = |what: &str| {
        a.send_to(&b.public(), what.as_bytes());
        b.expect(&recv_packet(&a.public(), what.as_bytes()));
    };
    still("before");
    let address = relay.relay.addr;
    assert_eq!(status_of(address, "/", ""), "HTTP/1.1 200 OK");
    assert_eq!(status_of(address, "/debug/", ""), "HTTP/1.1 403 Forbidden");

    place.write(&text("home = \"https://home.example/\"\ndebug.main = true\n"));
    relay.hangup();
    assert_eq!(status_of(address, "/", ""), "HTTP/1.1 302 Found");
    assert_eq!(status_of(address, "/debug/", ""), "HTTP/1.1 200 OK");
    still("with another page");
    relay.relay.expect_line("changed=\"home, debug.main\"");

    // The debug key is read from a file that is named while the relay runs.
    fs::write(place.path("debug.key"), "the-key").unwrap();
    let key = format!("debug.main = true\ndebug.key_file = {:?}\n", place.path("debug.key"));
    place.write(&text(&key));
    relay.hangup();
    let forwarded = "X-Forwarded-For: 192.0.2.1\r\n";
    assert_eq!(status_of(address, "/debug/?debugkey=wrong", forwarded), "HTTP/1.1 403 Forbidden");
    assert_eq!(status_of(address, "/debug/?debugkey=the-key", forwarded), "HTTP/1.1 200 OK");

    place.write(&text("derp = false\n"));
    relay.hangup();
    assert_eq!(status_of(address, "/debug/?debugkey=the-key", forwarded), "HTTP/1.1 403 Forbidden");
    assert_eq!(status_of(address, "/derp", ""), "HTTP/1.1 404 Not Found");
    still("without a door");
    assert!(relay.metric("derpring_last_reload_timestamp_seconds") > 1e9);
}

#[test]
fn limits_change_for_who_comes_next() {
    let place = Place::new();
    let text = |more: &str| format!("cert.mode = \"none\"\n{more}");
    let mut relay = place.start(&text("max_clients = 2\n"), &[]);
    let limit = |relay: &super::place::Reloading| relay.metric("derpring_clients_limit");
    let (mut a, mut b) = (visit(&relay.relay).log_in(), visit(&relay.relay).log_in());
    assert_eq!(limit(&relay), 2.0);
    let upgrade = "Upgrade: DERP\r\n";
    assert_eq!(status_of(relay.relay.addr, "/derp", upgrade), "HTTP/1.1 503 Service Unavailable");

    place.write(&text("max_clients = 3\n"));
    relay.hangup();
    assert_eq!(limit(&relay), 3.0);
    let mut c = visit(&relay.relay).log_in();

    // Fewer than there are: nobody is sent away.
    place.write(&text("max_clients = 1\n"));
    relay.hangup();
    assert_eq!(limit(&relay), 1.0);
    a.send_to(&b.public(), b"still here");
    b.expect(&recv_packet(&a.public(), b"still here"));
    drop(b);
    assert_eq!(status_of(relay.relay.addr, "/derp", upgrade), "HTTP/1.1 503 Service Unavailable");

    // A limit per address counts those who came before it was one.
    place.write(&text("max_clients = 10\nmax_clients_per_ip = 2\n"));
    relay.hangup();
    relay.wait("one client to be gone", |relay| relay.metric("coder_derp_server_connections") == 2.0);
    assert_eq!(status_of(relay.relay.addr, "/derp", upgrade), "HTTP/1.1 503 Service Unavailable");
    place.write(&text("max_clients = 10\nmax_clients_per_ip = 3\n"));
    relay.hangup();
    let mut d = visit(&relay.relay).log_in();
    c.send_to(&d.public(), b"a new one");
    d.expect(&recv_packet(&c.public(), b"a new one"));
}

#[test]
fn who_may_ask_on_the_admin_listener_changes() {
    let place = Place::new();
    place.token("first");
    let token = format!("cert.mode = \"none\"\nadmin.token_file = {:?}\n", place.path("token"));
    let admin = format!("--admin-listen=unix:{},127.0.0.1:0", place.path("admin").display());
    let mut relay = place.start(&token, &[&admin]);
    let listen =
        relay.relay.lines().iter().find_map(|line| line.strip_prefix("  admin       http://")?.strip_suffix('/'));
    let listen = listen.expect("an admin listener over TCP").to_owned();
    // From the machine itself, but under a name that may be anybody's: only the token opens it.
    let foreign = |token: &str| {
        let mut stream = std::net::TcpStream::connect(&listen).unwrap();
        let head = "GET /metrics HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\nAuthorization: Bearer ";
        write!(stream, "{head}{token}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!((foreign("first"), foreign("second")), ("200".into(), "403".into()));
    // The file alone changes, and nobody says so.
    place.token("second");
    relay.expect_reloads(1, 0);
    assert_eq!((foreign("first"), foreign("second")), ("403".into(), "200".into()));
    relay.relay.expect_line("changed=\"admin.token_file\"");
}

#[test]
fn the_log_follows_its_setting_and_keeps_what_was_set_by_hand() {
    let place = Place::new();
    let text = |filter: &str| format!("cert.mode = \"none\"\nlog.filter = \"{filter}\"\n");
    let mut relay = place.start(&text("info"), &[]);
    let filter = |relay: &super::place::Reloading| {
        relay.admin("GET", "/debug/log", "").split("\r\n\r\n").nth(1).unwrap().trim().to_owned()
    };
    assert_eq!(filter(&relay), "info");
    place.write(&text("info,derpring::edge=debug"));
    relay.hangup();
    assert_eq!(filter(&relay), "info,derpring::edge=debug");
    relay.admin("PUT", "/debug/log", "trace");
    relay.hangup();
    assert_eq!(filter(&relay), "trace", "nothing was changed in the file");
    // It says nothing of this reload then.
    place.write(&text("warn"));
    relay.relay.signal(Signal::HUP);
    relay.wait("the filter of the file", |relay| filter(relay) == "warn");
}

#[test]
fn what_needs_a_restart_is_named_each_time() {
    let place = Place::new();
    let mut relay = place.start("cert.mode = \"none\"\n", &["--edges=1"]);
    let later = "cert.mode = \"none\"\nhome = \"blank\"\nedges = 2\nbackend = \"epoll\"\n[queue]\npackets = 64\n";
    place.write(later);
    relay.expect_reloads(1, 0);
    // A flag counts before the file: the edges do not change.
    relay.relay.expect_line("needs a restart: backend, queue.packets");
    relay.relay.expect_line("changed=\"home\"");
    relay.hangup();
    let said = relay.relay.lines().iter().filter(|line| line.contains("needs a restart")).count();
    assert_eq!(said, 2);
    assert_eq!(relay.reloads(), (2, 0));
}

/// Kubernetes replaces the directory that the file's name leads through.
#[test]
fn a_file_that_is_a_link_is_followed() {
    let place = Place::new();
    let mut relay = {
        place.write("cert.mode = \"none\"\n");
        let text = fs::read_to_string(place.path("relay.toml")).unwrap();
        for (version, home) in [("..1", ""), ("..2", "home = \"blank\"\n")] {
            fs::create_dir(place.path(version)).unwrap();
            // Keys of the top stand first.
            fs::write(place.path(version).join("linked.toml"), format!("{home}{text}")).unwrap();
        }
        symlink("..1", place.path("..data")).unwrap();
        symlink("..data/linked.toml", place.path("linked.toml")).unwrap();
        place.start_from("linked.toml", &[])
    };
    symlink("..2", place.path("..tmp")).unwrap();
    fs::rename(place.path("..tmp"), place.path("..data")).unwrap();
    relay.expect_reloads(1, 0);
    relay.relay.expect_line("changed=\"home\"");
}

#[test]
fn a_storm_of_hangups_is_survived() {
    let place = Place::new();
    let mut relay = place.start("cert.mode = \"none\"\n", &[]);
    let mut client = visit(&relay.relay).log_in();
    for n in 0..2000 {
        relay.relay.signal(Signal::HUP);
        if n % 500 == 0 {
            place.write(&format!("max_clients = {}\ncert.mode = \"none\"\n", 100 + n));
        }
    }
    relay.wait("the last limit", |relay| relay.metric("derpring_clients_limit") == 1600.0);
    let own = client.public();
    client.send_to(&own, b"to myself");
    client.expect(&recv_packet(&own, b"to myself"));
    assert_eq!(relay.reloads().1, 0, "every version of the file was good");
    relay.relay.signal(Signal::TERM);
    assert_eq!(relay.relay.wait().code(), Some(0));
}
