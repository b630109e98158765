//! Files that cannot be used: everything goes on as it was, and the log and a counter say so.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::place::{Place, status_of};
use crate::relay_support::frames::recv_packet;
use crate::relay_support::*;

#[test]
fn a_bad_file_changes_nothing_and_is_told() {
    let place = Place::new();
    let good = "home = \"blank\"\nmax_clients = 5\ncert.mode = \"none\"\n";
    let mut relay = place.start(good, &[]);
    let last = relay.metric("derpring_last_reload_timestamp_seconds");
    let mut client = visit(&relay.relay).log_in();
    for (refused, (bad, why)) in [
        ("max_clients = 6\nhome = \"nonsense\"\ncert.mode = \"none\"\n", "home \"nonsense\": give an http://"),
        ("max_clients = 6\nnonsense = 1\ncert.mode = \"none\"\n", "nonsense is no setting"),
        ("max_clients = \n", "relay.toml:"),
        ("max_clients = 1000000000000\ncert.mode = \"none\"\n", "--max-clients 1000000000000 needs"),
        ("max_clients = 6\nadmin.token_file = \"/nowhere/t\"\ncert.mode = \"none\"\n", "/nowhere/t\": cannot be read"),
        ("max_clients = 6\n", "--cert-mode is missing"),
    ]
    .into_iter()
    .enumerate()
    {
        place.write(bad);
        relay.expect_reloads(0, refused as u64 + 1);
        let line = relay.relay.expect_line(why);
        assert!(line.contains("reload refused, all stays as it was"), "{line}");
        assert_eq!(relay.metric("derpring_clients_limit"), 5.0, "{bad}");
    }
    assert_eq!(relay.metric("derpring_last_reload_timestamp_seconds"), last, "of the last one that went well");
    let own = client.public();
    client.send_to(&own, b"to myself");
    client.expect(&recv_packet(&own, b"to myself"));
    place.write("max_clients = 7\ncert.mode = \"none\"\n");
    relay.wait("the good file", |relay| relay.metric("derpring_clients_limit") == 7.0);
}

#[test]
fn a_file_or_its_directory_may_be_gone_for_a_while() {
    let place = Place::new();
    let mut relay = place.start("cert.mode = \"none\"\nmax_clients = 5\n", &[]);
    fs::remove_file(place.path("relay.toml")).unwrap();
    relay.expect_reloads(0, 1);
    relay.relay.expect_line("relay.toml\": cannot be read");
    place.write("max_clients = 6\ncert.mode = \"none\"\n");
    relay.expect_reloads(1, 1);

    // The directory is moved away and comes back: what asks for a reload then need not be a notice.
    let inner = place.path("inner");
    fs::create_dir(&inner).unwrap();
    fs::rename(place.path("relay.toml"), inner.join("relay.toml")).unwrap();
    relay.expect_reloads(1, 2);
    fs::rename(inner.join("relay.toml"), place.path("relay.toml")).unwrap();
    relay.expect_reloads(2, 2);
    assert_eq!(relay.metric("derpring_clients_limit"), 6.0);
}

#[test]
fn a_whole_directory_may_vanish() {
    let place = Place::new();
    let conf = place.path("conf");
    fs::create_dir(&conf).unwrap();
    place.write("cert.mode = \"none\"\nmax_clients = 5\n");
    fs::rename(place.path("relay.toml"), conf.join("relay.toml")).unwrap();
    let mut relay = place.start_from("conf/relay.toml", &[]);
    let mut client = visit(&relay.relay).log_in();
    fs::remove_dir_all(&conf).unwrap();
    relay.expect_reloads(0, 1);
    fs::create_dir(&conf).unwrap();
    place.write("max_clients = 6\ncert.mode = \"none\"\n");
    fs::rename(place.path("relay.toml"), conf.join("relay.toml")).unwrap();
    // Nobody watches the new directory yet; a signal need not wait for the next look.
    relay.hangup();
    assert_eq!(relay.metric("derpring_clients_limit"), 6.0);
    // That look may come first all the same, or at once behind it: one of them finds a change.
    relay.relay.expect_line("changed=\"max_clients\"");
    assert_eq!(relay.relay.lines().iter().filter(|line| line.contains("changed=\"max_clients\"")).count(), 1);
    assert_eq!(relay.reloads().1, 1);
    let own = client.public();
    client.send_to(&own, b"to myself");
    client.expect(&recv_packet(&own, b"to myself"));
}

/// Root may read everything; then the file's rights are no obstacle and the test only sees that nothing breaks.
#[test]
fn a_file_that_may_not_be_read_is_refused() {
    let place = Place::new();
    place.token("token");
    let text = format!("cert.mode = \"none\"\nadmin.token_file = {:?}\n", place.path("token"));
    let mut relay = place.start(&text, &[]);
    fs::set_permissions(place.path("token"), PermissionsExt::from_mode(0o000)).unwrap();
    let root = rustix::process::geteuid().is_root();
    relay.expect_reloads(u64::from(root), u64::from(!root));
    // A directory in its place is unreadable for everybody.
    fs::remove_file(place.path("token")).unwrap();
    fs::create_dir(place.path("token")).unwrap();
    relay.wait("a refusal", |relay| relay.reloads().1 == 1 + u64::from(!root));
    relay.relay.expect_line("token\": cannot be read");
    assert_eq!(status_of(relay.relay.addr, "/derp/probe", ""), "HTTP/1.1 200 OK");
}

#[test]
fn a_relay_without_a_file_reloads_too() {
    let place = Place::new();
    let admin = format!("--admin-listen=unix:{}", place.path("admin").display());
    let mut command = process::command();
    let relay = Relay::spawn(command.args(["serve", "--dev", "--listen=127.0.0.1:0", &admin]));
    let mut relay = super::place::Reloading::of(relay, place.path("admin"));
    relay.hangup();
    assert_eq!(relay.reloads(), (1, 0));
    relay.relay.expect_line("changed=\"nothing\"");
}
