use super::super::AdminAddr;
use super::super::sources::{SourceError, Sources};
use super::*;

#[test]
fn the_defaults_are_those_of_a_public_relay() {
    let loaded = load_args(&["--cert-mode=none"]).unwrap();
    let config = loaded.config;
    assert_eq!(config.listen, [tcp("[::]:443")]);
    assert_eq!(config.stun, StunConfig { listen: vec!["[::]:3478".parse().unwrap()], any: false });
    assert!(config.http.is_empty(), "plain HTTP is on the main listener");
    assert_eq!(config.tls, TlsMode::None);
    assert_eq!(config.key, KeySource::File("/var/lib/derpring/derpring.key".into()));
    assert_eq!(config.queue, QueueLimits::default());
    assert_eq!((config.workers, config.edges), (None, None));
    assert_eq!((config.max_clients, config.max_clients_per_ip), (None, None));
    assert_eq!((config.backend, config.log), (Backend::Auto, LogFormat::Human));
    assert!(config.debug_on_main.is_none());
    assert_eq!(config.admin.listen, [AdminAddr::Tcp("127.0.0.1:2112".parse().unwrap())]);
    assert!(loaded.warnings.is_empty());
    let config = load_args(&["--cert-mode=self-signed", "--hostname=a.example"]).unwrap().config;
    assert_eq!(config.http, ["[::]:80".parse().unwrap()]);
}

#[test]
fn dev_changes_defaults_and_nothing_else() {
    let loaded = load_args(&["--dev"]).unwrap();
    assert_eq!(loaded.config.listen, [tcp("127.0.0.1:3340")]);
    assert!(loaded.config.stun.listen.is_empty() && loaded.config.http.is_empty());
    assert_eq!((loaded.config.tls, loaded.config.key), (TlsMode::None, KeySource::Ephemeral));
    assert!(loaded.warnings.is_empty());
    assert!(loaded.config.admin.listen.is_empty() && loaded.config.debug_on_main.is_some());

    let config = load_args(&["--dev", "--listen=:1,[::1]:2", "--cert-mode=self-signed", "--key-file=/k"]).unwrap();
    let config = config.config;
    assert_eq!(config.listen, [tcp("[::]:1"), tcp("[::1]:2")]);
    assert_eq!(config.tls, TlsMode::SelfSigned { hostname: "127.0.0.1".into() });
    assert_eq!(config.key, KeySource::File("/k".into()));
    let config = load_args(&["--cert-mode=none", "--key-file="]).unwrap().config;
    assert_eq!(config.key, KeySource::Ephemeral);
}

#[test]
fn every_flag_counts() {
    let args = [
        "--cert-mode=manual",
        "--cert-dir=/c",
        "--hostname=relay.example,other.example",
        "--workers=3",
        "--edges=2",
        "--placement=login",
        "--busy-poll=50",
        "--backend=epoll",
        "--queue-packets=64",
        "--queue-bytes=1 MiB",
        "--max-clients=1000",
        "--max-clients-per-ip=10",
        "--log-format=json",
        "--log=debug",
        "--derp=false",
        "--ace",
        "--round-trips=false",
        "--debug-main",
        "--debug-tailscale",
        "--debug-allow=10.0.0.0/8",
        "--tcp-write-timeout=0",
        "--tcp-user-timeout=1m",
        "--tcp-keepalive-time=1500ms",
        "--flush-time=5s",
        "--stun-any",
        "--takeover",
    ];
    let off = ["--stun-listen=", "--http-listen="];
    let admin = ["--admin-listen=:2112,unix:/a", "--admin-listen=[::1]:1", "--admin-allow=10.0.0.0/8,192.0.2.1"];
    let Loaded { config, warnings, .. } = load_args(&[&args[..], &off, &admin].concat()).unwrap();
    assert_eq!((config.admin.listen.len(), config.admin.allow.len()), (3, 2));
    assert!(load_args(&["--cert-mode=none", "--admin-listen="]).unwrap().config.admin.listen.is_empty());
    let hostnames = vec!["relay.example".to_owned(), "other.example".to_owned()];
    assert_eq!(config.tls, TlsMode::Manual { dir: "/c".into(), hostnames, make_if_absent: false });
    assert_eq!((config.workers, config.edges), (Some(3), Some(2)));
    assert_eq!((config.moves, config.busy_poll), (false, Duration::from_micros(50)));
    assert_eq!((config.backend, config.log), (Backend::Epoll, LogFormat::Json));
    assert_eq!(config.queue, QueueLimits { packets: 64, bytes: 1 << 20 });
    assert_eq!((config.max_clients, config.max_clients_per_ip), (Some(1000), Some(10)));
    assert!(warnings.is_empty() && config.stun.listen.is_empty() && config.http.is_empty());
    assert_eq!(config.log_filter.as_deref(), Some("debug"));
    assert_eq!((config.derp, config.connect, config.round_trips, config.stun.any), (false, true, false, true));
    let debug = config.debug_on_main.unwrap();
    assert!(debug.tailscale && debug.allows("10.1.1.1".parse().unwrap()) && config.takeover.take);
    let times = (Duration::ZERO, Duration::from_secs(60), Duration::from_millis(1500));
    assert_eq!((config.tcp.write_timeout, config.tcp.user_timeout, config.tcp.keepalive_time), times);
    assert_eq!(config.flush_on_stop, Duration::from_secs(5));
}

#[test]
fn what_cannot_be_used_is_refused_with_a_way_out() {
    for (args, text) in [
        (&[][..], "--cert-mode is missing: give acme or manual"),
        (&["--cert-mode=acme"], "--hostname is missing"),
        (&["--cert-mode=acme", "--hostname=a.b", "--acme-eab-kid=1"], "an external account binding needs both"),
        (&["--cert-mode=off"], "--cert-mode \"off\": give acme or manual"),
        (&["--cert-mode=manual"], "--hostname is missing"),
        (&["--cert-mode=self-signed", "--hostname=a b"], "--hostname \"a b\": give a DNS name"),
        (&["--dev", "--listen="], "--listen \"\": the port is missing"),
        (&["--dev", "--listen=:1", "--listen=:1"], "--listen \":1\": stands there twice"),
        (&["--dev", "--admin-listen=1"], "--admin-listen \"1\": the port is missing"),
        (&["--dev", "--admin-allow=1"], "--admin-allow \"1\": the length is missing"),
        (&["--dev", "--admin-token-file=/nowhere/t"], "--admin-token-file \"/nowhere/t\": cannot be read"),
        (&["--dev", "--stun-listen=1"], "--stun-listen \"1\": the port is missing"),
        (&["--dev", "--http-listen=:1,"], "--http-listen \"\": the port is missing"),
        (&["--dev", "--trusted-proxy=here"], "--trusted-proxy \"here\": the length is missing"),
        (&["--dev", "--accept-limit=0"], "--accept-limit \"0\": give a number above 0"),
        (&["--dev", "--accept-burst=1"], "--accept-burst counts only with --accept-limit"),
        (&["--dev", "--derp=maybe"], "--derp \"maybe\": write true or false"),
        (&["--dev", "--log=debgu"], "--log \"debgu\": \"debgu\" is not a level"),
        (&["--dev", "--tcp-write-timeout=2"], "--tcp-write-timeout \"2\": write a time such as"),
        (&["--dev", "--flush-time=-1s"], "--flush-time \"-1s\": write a time such as"),
        (&["--cert-mode=none", "--debug-allow=10.0.0.1"], "who may see /debug/ on the main listener is told"),
        (&["--dev", "--debug-key-file=/nowhere/k"], "--debug-key-file \"/nowhere/k\": cannot be read"),
        (&["--cert-mode=manual", "--hostname=a.b", "--cert-make"], "--hostname \"a.b\": --cert-make makes"),
        (&["--cert-mode=acme", "--hostname=a.b", "--acme-directory=http://a"], "--acme-directory \"http://a\": give"),
        (&["--cert-mode=acme", "--hostname=a.b", "--acme-ca-file=/dev/null"], "--acme-ca-file \"/dev/null\": holds"),
        (&["--cert-mode=acme", "--hostname=a.b", "--acme-ca-file=/no"], "--acme-ca-file \"/no\": cannot be read"),
        (&["--dev", "--accept-limit=1", "--accept-burst=0"], "--accept-burst \"0\": give a number from 1"),
        (&["--dev", "--home=here"], "--home \"here\": give an http://"),
        (&["--dev", "--drain-time=1h"], "--drain-time \"1h\": give a number from 0"),
        (&["--dev", "--workers=0"], "--workers \"0\": give a number from 1 to 1024"),
        (&["--dev", "--edges=x"], "--edges \"x\": give a number"),
        (&["--dev", "--placement=here"], "--placement \"here\": give traffic or login"),
        (&["--dev", "--busy-poll=1s"], "--busy-poll \"1s\": give a number from 0 to 10000"),
        (&["--dev", "--backend=kqueue"], "--backend \"kqueue\": give auto, uring or epoll"),
        (&["--dev", "--queue-packets=8"], "--queue-packets \"8\": give a number from 32"),
        (&["--dev", "--queue-bytes=4GiB"], "--queue-bytes \"4GiB\""),
        (&["--dev", "--queue-bytes=1"], "--queue-bytes \"1\""),
        (&["--dev", "--queue-bytes=99999999999999999999"], "--queue-bytes"),
        (&["--dev", "--max-clients=0"], "--max-clients \"0\""),
        (&["--dev", "--log-format=xml"], "--log-format \"xml\""),
        (&["--dev", "--mesh-key-file=/nowhere/mesh"], "cannot read the key file /nowhere/mesh"),
    ] {
        let error = load_args(args).unwrap_err().to_string();
        assert!(error.starts_with(text), "{args:?}: {error}");
    }
}

fn tcp(address: &str) -> ListenAddr {
    ListenAddr::Tcp(address.parse().unwrap())
}

fn load_args(args: &[&str]) -> Result<Loaded, SourceError> {
    Sources::new(args.iter().map(OsString::from), []).load()
}
