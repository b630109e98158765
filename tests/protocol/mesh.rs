//! What a client with the mesh key may do: watch, forward, close.

use std::fs;

use tempfile::TempDir;

use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

const MESH: &str = "c0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ffeec0ff";

fn relay(ground: Ground, dir: &TempDir) -> Relay {
    let path = dir.path().join("mesh.key");
    fs::write(&path, MESH).unwrap();
    Relay::start(ground, &["--mesh-key-file", path.to_str().unwrap()])
}

const REGULAR: u8 = 1;
const IN_MESH: u8 = 2;
const PROBER: u8 = 4;
const NOT_IDEAL: u8 = 8;

fn sorted(frames: &[Vec<u8>]) -> Vec<String> {
    let mut all: Vec<String> = frames.iter().map(|bytes| hex(bytes)).collect();
    all.sort();
    all
}

/// The next frames in any order: what several workers say of different peers has none.
#[track_caller]
fn expect_all(client: &mut Client, wanted: &[Vec<u8>]) {
    let got: Vec<Vec<u8>> = wanted.iter().map(|_| client.frame().bytes()).collect();
    assert_eq!(sorted(&got), sorted(wanted), "left: what came, right: what was expected");
}

fn a_watcher_sees_everybody_come_and_go(ground: Ground) {
    let dir = TempDir::new().unwrap();
    let relay = relay(ground, &dir);
    let regular = visit(&relay).log_in();
    let ideal = visit(&relay).header("Ideal-Node: 7a").log_in();
    let prober = visit(&relay).json(r#"{"version":2,"IsProber":true}"#).log_in();
    let both = visit(&relay).json(r#"{"IsProber":true}"#).header("Ideal-Node: 7a").log_in();
    let not_really = visit(&relay).header("Ideal-Node: ").log_in();
    let mut watcher = visit(&relay).mesh(MESH).log_in();
    let present = |client: &Client, flags| peer_present(&client.public(), client.wire.local_port(), flags);
    let all = [
        present(&regular, REGULAR),
        present(&ideal, NOT_IDEAL),
        present(&prober, PROBER),
        present(&both, PROBER | NOT_IDEAL),
        present(&not_really, REGULAR),
        present(&watcher, IN_MESH),
    ];
    assert!(all.iter().all(|frame| frame.len() == 5 + 51));
    for _ in 0..2 {
        watcher.send(&watch_conns());
        expect_all(&mut watcher, &all);
        watcher.expect_quiet();
    }

    // Two watchers, and everything that happens from now on.
    let mut second = visit(&relay).mesh(MESH).log_in();
    watcher.expect(&present(&second, IN_MESH));
    second.send(&watch_conns());
    let with_second = [&all[..], &[present(&second, IN_MESH)]].concat();
    expect_all(&mut second, &with_second);
    for _ in 0..20 {
        let mut guest = visit(&relay).log_in();
        let came = present(&guest, REGULAR);
        watcher.expect(&came);
        second.expect(&came);
        // A watcher that also hears of it is told once.
        guest.send_to(&watcher.public(), b"good day");
        watcher.expect(&recv_packet(&guest.public(), b"good day"));
        let gone = peer_gone(&guest.public(), DISCONNECTED);
        drop(guest);
        watcher.expect(&gone);
        second.expect(&gone);
    }
    let mut others = [regular, ideal, prober, both, not_really];
    others.iter_mut().for_each(Client::expect_quiet);
    watcher.expect_quiet();
    second.expect_quiet();
}

/// PeerPresent for every new connection of a key, PeerGone when the last one goes.
fn a_watcher_sees_connections_of_one_key(ground: Ground) {
    let dir = TempDir::new().unwrap();
    let relay = relay(ground, &dir);
    let mut watcher = visit(&relay).mesh(MESH).log_in();
    watcher.send(&watch_conns());
    watcher.expect(&peer_present(&watcher.public(), watcher.wire.local_port(), IN_MESH));
    let key = Key::fresh();
    let first = visit(&relay).key(&key).log_in();
    watcher.expect(&peer_present(&key.public, first.wire.local_port(), REGULAR));
    let mut second = visit(&relay).key(&key).log_in();
    watcher.expect(&peer_present(&key.public, second.wire.local_port(), REGULAR));
    drop(first);
    second.send_to(&watcher.public(), b"alone");
    watcher.expect(&recv_packet(&key.public, b"alone"));
    drop(second);
    watcher.expect(&peer_gone(&key.public, DISCONNECTED));
    watcher.expect_quiet();
}

fn a_forwarded_packet_has_its_own_source(ground: Ground) {
    let dir = TempDir::new().unwrap();
    let relay = relay(ground, &dir);
    let mut mesh = visit(&relay).mesh(MESH).log_in();
    let mut clients: Vec<Client> = (0..3).map(|_| visit(&relay).log_in()).collect();
    let source = Key::fresh().public;
    for size in [0, 1, 62, 1400, MAX_PACKET] {
        for client in &mut clients {
            mesh.send(&forward_packet(&source, &client.public(), &noise(4, size)));
            client.expect(&recv_packet(&source, &noise(4, size)));
            mesh.send(&forward_packet(&source, &client.public(), &disco(size.max(62))));
            client.expect(&recv_packet(&source, &disco(size.max(62))));
        }
    }
    // One hop only: a destination that is not here is reported to who forwarded, for disco.
    let nobody = Key::fresh().public;
    mesh.send(&forward_packet(&source, &nobody, b"data"));
    mesh.expect_quiet();
    mesh.send(&forward_packet(&source, &nobody, &disco(100)));
    mesh.expect(&peer_gone(&nobody, NOT_HERE));
    mesh.expect_quiet();
}

fn close_peer_ends_every_connection_of_a_key(ground: Ground) {
    let dir = TempDir::new().unwrap();
    let relay = relay(ground, &dir);
    let mut mesh = visit(&relay).mesh(MESH).log_in();
    let mut bystander = visit(&relay).log_in();
    let key = Key::fresh();
    let mut victims: Vec<Client> = (0..4).map(|_| visit(&relay).key(&key).log_in()).collect();
    mesh.send(&close_peer(&Key::fresh().public));
    mesh.expect_quiet();
    mesh.send(&close_peer(&key.public));
    for victim in &mut victims {
        let (frames, end) = victim.until_end();
        assert!(frames.iter().all(|frame| frame.kind == HEALTH), "expected only an end, got {frames:?}");
        assert_eq!(end, End::Fin);
    }
    bystander.expect_quiet();
    mesh.expect_quiet();
    // It may come back.
    visit(&relay).key(&key).log_in().expect_quiet();
    // And a mesh peer may close itself.
    mesh.send(&close_peer(&mesh.public()));
    assert_eq!(mesh.expect_end(), End::Fin);
}

/// Without the key, with a wrong one, and at a relay that has none.
fn rights_need_the_key(ground: Ground) {
    let dir = TempDir::new().unwrap();
    let meshed = relay(ground, &dir);
    let alone = Relay::start(ground, &[]);
    let mut victim = visit(&meshed).log_in();
    let wrong = MESH.replace("c0", "c1");
    let visits = [
        ("no mesh key", visit(&meshed)),
        ("a wrong mesh key", visit(&meshed).mesh(&wrong)),
        ("the zero mesh key", visit(&meshed).mesh(&"00".repeat(32))),
        ("a relay without mesh key", visit(&alone).mesh(MESH)),
        ("a relay without mesh key, and the zero key", visit(&alone).mesh(&"00".repeat(32))),
    ];
    for (what, visit) in visits {
        let source = Key::fresh().public;
        for bytes in
            [watch_conns(), close_peer(&victim.public()), forward_packet(&source, &victim.public(), b"not from me")]
        {
            let mut client = visit.clone().key(&Key::fresh()).log_in();
            client.expect_quiet();
            client.send(&bytes);
            match client.next() {
                Event::End(End::Fin, 0) => {}
                other => panic!("{what}: expected the end of the connection, got {other:?}"),
            }
        }
    }
    victim.expect_quiet();
    // Letter case does not matter.
    let mut mesh = visit(&meshed).mesh(&MESH.to_uppercase()).log_in();
    mesh.send(&watch_conns());
    assert_eq!(mesh.frame().kind, PEER_PRESENT);
}

/// A relay that dialled itself watches nothing, and is not closed for asking.
fn the_relays_own_key_watches_nothing(ground: Ground) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("mesh.key");
    fs::write(&path, MESH).unwrap();
    let secret = noise(77, 32);
    let key_file = dir.path().join("relay.key");
    fs::write(&key_file, format!("{{\"PrivateKey\":\"privkey:{}\"}}", hex(&clamped(&secret)))).unwrap();
    let args = ["--mesh-key-file", path.to_str().unwrap(), "--key-file", key_file.to_str().unwrap()];
    let relay = Relay::start(ground, &args);
    let own = Key::of(clamped(&secret));
    assert_eq!(own.public, relay.public);
    let mut itself = visit(&relay).key(&own).mesh(MESH).log_in();
    itself.send(&watch_conns());
    itself.expect_quiet();
}

fn clamped(secret: &[u8]) -> [u8; 32] {
    let mut key: [u8; 32] = secret.try_into().unwrap();
    key[0] &= 248;
    key[31] = key[31] & 127 | 64;
    key
}

on_workers!(
    a_watcher_sees_everybody_come_and_go,
    a_watcher_sees_connections_of_one_key,
    a_forwarded_packet_has_its_own_source,
    close_peer_ends_every_connection_of_a_key,
    rights_need_the_key,
    the_relays_own_key_watches_nothing,
);
