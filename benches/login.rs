//! What a login costs the edge besides TLS: the HTTP head, opening ClientInfo, sealing ServerInfo.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use derpring::config::{HomePage, TrustedProxies};
use derpring::proto::http::{self, Action, Door, Protocol, Services, Site, Visitor};
use derpring::proto::login::Keys;

const SERVER: [u8; 32] = [0x42; 32];
const CLIENT: [u8; 32] = [0x43; 32];
const INFO: &[u8] = br#"{"version":2,"CanAckPings":true,"IsProber":false}"#;

/// As Go's client sends it.
const HEAD: &[u8] = b"GET /derp HTTP/1.1\r\nHost: derp.example.com\r\nUser-Agent: Go-http-client/1.1\r\n\
    Connection: Upgrade\r\nDerp-Fast-Start: 1\r\nUpgrade: DERP\r\n\r\n";

criterion_main!(benches);
criterion_group!(benches, login);

fn login(c: &mut Criterion) {
    let mut group = c.benchmark_group("login");
    group.throughput(Throughput::Elements(1));
    let site = Site { home: HomePage::Default, debug: None, derp: true, connect: false, tailscales: false };
    let (proxies, door) = (TrustedProxies::default(), Door::Main { tls: true });
    let visitor = Visitor { address: Some(([192, 0, 2, 1], 4242).into()), proxies: &proxies, door, last: false };
    let services = Services { challenges: None };
    group.bench_function("HTTP head", |b| {
        b.iter(|| {
            let exchange =
                http::next(black_box(HEAD), &site, services, visitor).expect("a request").expect("all of it");
            let Action::Upgrade(upgrade) = exchange.action else { panic!("an upgrade was asked for") };
            assert!(upgrade.protocol == Protocol::Derp { fast_start: true } && exchange.head_len == HEAD.len());
        });
    });
    let keys = Keys::new(SERVER);
    let payload = client_info(&keys);
    group.bench_function("open ClientInfo", |b| {
        b.iter(|| {
            let login = keys.open(black_box(&payload)).expect("the client holds its key");
            assert_eq!((&login.key.0[..], login.info.version), (&payload[..32], 2));
        });
    });
    let login = keys.open(&payload).expect("the client holds its key");
    group.bench_function("seal ServerInfo", |b| {
        b.iter(|| assert_eq!(login.server_info_frame(black_box([9; 24])).len(), 5 + 24 + 16 + 13));
    });
    group.finish();
}

fn client_info(keys: &Keys) -> Vec<u8> {
    let private = SecretKey::from(CLIENT);
    let sealer = SalsaBox::new(&PublicKey::from(keys.public().0), &private);
    let nonce = [7; 24];
    let sealed = sealer.encrypt((&nonce).into(), INFO).expect("short enough");
    [private.public_key().as_bytes(), &nonce[..], &sealed].concat()
}
