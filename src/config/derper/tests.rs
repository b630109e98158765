use std::fs;

use tempfile::TempDir;

use super::super::HomePage;
use super::*;

#[test]
fn the_defaults_are_derpers() {
    let loaded = load(&["-a", ":8443"], &[]).unwrap();
    let config = loaded.config;
    assert_eq!(config.listen, [tcp("[::]:8443")]);
    assert_eq!(config.stun.listen, ["[::]:3478".parse().unwrap()]);
    assert_eq!(config.tls, TlsMode::None, "letsencrypt on another port than 443 is plain HTTP");
    assert_eq!(config.key, KeySource::File("/var/lib/derper/derper.key".into()));
    assert_eq!(config.mesh_key, None);
    assert_eq!(config.home, HomePage::Default);
    assert_eq!(config.tcp, TcpOptions::default());
    assert_eq!(config.queue, QueueLimits::default());
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].contains("plain HTTP") && config.http.is_empty());
}

#[test]
fn dev_ignores_address_and_key_file() {
    let config = load(&["-dev", "-a", ":443", "-c", "/nowhere"], &[]).unwrap().config;
    assert_eq!(config.listen, [tcp("[::]:3340")]);
    assert_eq!((config.tls, config.key), (TlsMode::None, KeySource::Ephemeral));
    let manual = load(&["-dev", "-certmode=manual", "-certdir=/c", "-hostname=h.example"], &[]).unwrap().config;
    assert!(matches!(manual.tls, TlsMode::Manual { .. }), "manual certificates mean TLS on any port");
}

#[test]
fn only_dev_takes_the_mesh_key_from_the_environment() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("mesh");
    fs::write(&file, "cd".repeat(32)).unwrap();
    let file = format!("-mesh-psk-file={}", file.display());
    let env = [("TAILSCALE_DERPER_MESH_KEY", &*"ab".repeat(32))];
    let key = |args: &[&str]| load(args, &env).unwrap().config.mesh_key;
    assert_eq!(key(&["-dev", &file]), Some(MeshKey([0xab; 32])));
    assert_eq!(key(&["-a=:1", &file]), Some(MeshKey([0xcd; 32])));
    let text = load(&["-dev"], &[("TAILSCALE_DERPER_MESH_KEY", "secret")]).unwrap_err().to_string();
    assert!(text.contains("64 hex") && !text.contains("secret"), "{text}");
}

#[test]
fn files_are_looked_for_where_derper_does() {
    let host_flags = |env: &[(&str, &str)], present: &[&str]| {
        let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        let exists = |path: &Path| present.iter().any(|p| Path::new(p) == path);
        let host = Host { env: &env, names: &[], exists: &exists, root: false };
        let flags = go_flags::parse(&flags::definitions(&host), &[]).unwrap();
        (flags.text("certdir").to_owned(), flags.text("mesh-psk-file").to_owned())
    };
    let home = [("HOME", "/root")];
    let both = ["/home/derp/keys/derp-mesh.key", "/root/keys/derp-mesh.key"];
    assert_eq!(host_flags(&home, &both), ("/root/.cache/tailscale/derper-certs".into(), both[0].into()));
    assert_eq!(host_flags(&home, &both[1..]).1, both[1]);
    assert_eq!(host_flags(&home, &[]).1, "");
    assert_eq!(host_flags(&[("XDG_CACHE_HOME", "/x")], &[]).0, "/x/tailscale/derper-certs");
    assert_eq!(host_flags(&[], &[]).0, "");
}

#[test]
fn manual_certificates_name_their_files() {
    let tls = |args: &[&str]| load(args, &[]).map(|loaded| loaded.config.tls);
    let manual = ["-certmode=manual", "-certdir=/c"];
    let made = |hostname: &str| TlsMode::Manual {
        dir: "/c".into(),
        hostnames: vec![hostname.into()],
        make_if_absent: hostname != "relay.example",
    };
    for name in ["relay.example", "192.0.2.1", "2001:db8::1"] {
        assert_eq!(tls(&[&manual[..], &["-hostname", name]].concat()).unwrap(), made(name));
    }
    assert!(tls(&["-certmode=manual"]).unwrap_err().to_string().contains("-certdir is empty"));
    assert!(tls(&["-certmode=manual", "-certdir=/c", "-hostname=a b"]).unwrap_err().to_string().contains("-hostname"));
}

#[test]
fn port_80_goes_with_tls_and_both_ports_have_the_address_of_the_main_one() {
    let ports = |args: &[&str]| {
        let config = load(args, &[]).unwrap().config;
        let texts = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        (texts(&config.http), texts(&config.stun.listen))
    };
    let tls = ["-a=192.0.2.1:443", "-certmode=manual", "-certdir=/c"];
    assert_eq!(ports(&tls), ("192.0.2.1:80".into(), "192.0.2.1:3478".into()));
    assert_eq!(ports(&[&tls[..], &["-http-port=8080", "-stun=false"]].concat()), ("192.0.2.1:8080".into(), "".into()));
    assert_eq!(ports(&[&tls[..], &["-http-port=-1", "-stun-port=1"]].concat()), ("".into(), "192.0.2.1:1".into()));
    assert_eq!(ports(&["-dev"]), ("".into(), "[::]:3478".into()));
}

#[test]
fn certificates_from_an_authority() {
    let acme = |args: &[&str]| match load(&[&["-hostname=a.example"], args].concat(), &[]).unwrap().config.tls {
        TlsMode::Acme(acme) => *acme,
        other => panic!("{other:?}"),
    };
    let plain = acme(&["-certdir=/c"]);
    assert_eq!((plain.hostnames, plain.directory), (vec!["a.example".into()], super::super::LETS_ENCRYPT.into()));
    let bound = ["-certdir=/c", "-certmode=gcp", "-acme-eab-kid=k", "-acme-eab-key=_-8", "-acme-email=a@b.example"];
    let google = acme(&bound);
    assert_eq!(google.eab, Some(Eab { kid: "k".into(), key: vec![0xff, 0xef] }));
    assert!(google.directory.contains("pki.goog") && google.email.is_some());
    let padded = acme(&["-certdir=/c", "-acme-eab-kid=k", "-acme-eab-key=/+8="]);
    assert_eq!(padded.eab.unwrap().key, [0xff, 0xef]);
    let ip = acme(&["-certdir=/c", "-hostname=192.0.2.1", "-acme-ip-certs"]);
    assert!(ip.hostnames.is_empty() && ip.ip_certs);
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    for (args, text) in [
        (&["-a=:443"][..], "-certdir is empty"),
        (&["-a=:443", "-hostname=192.0.2.1"], "-hostname \"192.0.2.1\": an IP address needs -acme-ip-certs"),
        (&["-a=:https", "-certmode=gcp"], "-certmode=gcp needs -acme-eab-kid"),
        (&["-a=:443", "-acme-eab-kid=k"], "give both -acme-eab-kid and"),
        (&["-a=:443", "-acme-eab-kid=k", "-acme-eab-key=?"], "-acme-eab-key must hold"),
        (&["-certmode=auto"], "-certmode \"auto\": derper knows"),
        (&["-a=3340"], "-a \"3340\": the port is missing"),
        (&["-dev", "-home=ftp://x"], "-home \"ftp://x\""),
        (&["-dev", "-home=http://x\r\nSet-Cookie: a"], "-home"),
        (&["-dev", "-tcp-write-timeout=-1s"], "-tcp-write-timeout \"-1000000000ns\": give 0 or more"),
        (&["-dev", "-http-port=65536"], "-http-port \"65536\""),
        (&["-dev", "-accept-connection-limit=-1"], "-accept-connection-limit \"-1\": give 0"),
        (&["-dev", "-mesh-with=a.example"], "-mesh-with is not built yet"),
        (&["-dev", "-secrets-url=http://s"], "-secrets-url is not built yet"),
        (&["-dev", "-verify-clients"], "-verify-clients is not built yet"),
        (&["-dev", "-verify-client-url=http://v"], "-verify-client-url is not built yet"),
        (&["-dev", "-verify-client-url-fail-open=false"], "-verify-client-url-fail-open is not built yet"),
        (&["-dev", "-rate-config=/r"], "-rate-config is not built yet"),
        (&["-dev", "-socket=/s"], "-socket is not built yet"),
    ] {
        let error = load(args, &[]).unwrap_err().to_string();
        assert!(error.starts_with(text), "{args:?}: {error}");
    }
    let host = Host { env: &|_| None, names: &[], exists: &|_| false, root: false };
    assert!(read(&["-a=:8080".into()], &host).unwrap_err().to_string().starts_with("-c is missing"));
}

#[test]
fn an_unbuilt_flag_may_say_its_default() {
    let args = [
        "-dev",
        "-verify-clients=false",
        "-verify-client-url=",
        "-verify-client-url-fail-open=true",
        "-derp=true",
        "-ace=false",
        "-accept-connection-limit=Inf",
        "-accept-connection-burst=9223372036854775807",
        "-secrets-path-prefix=prod/derp",
        "-secrets-cache-dir=",
        "-mesh-with=",
    ];
    load(&args, &[]).unwrap();
}

#[test]
fn durations_keep_gos_meaning() {
    let tcp = |arg: &str| load(&["-dev", arg], &[]).unwrap().config.tcp;
    assert_eq!(tcp("-tcp-write-timeout=0").write_timeout, Duration::ZERO);
    assert_eq!(tcp("-tcp-user-timeout=1m").user_timeout, Duration::from_secs(60));
    assert_eq!(tcp("-tcp-keepalive-time=0").keepalive_time, Duration::from_secs(15));
    assert_eq!(tcp("-tcp-keepalive-time=-1s").keepalive_time, Duration::ZERO);
}

#[test]
fn the_environment_is_read_and_checked() {
    let with = |name, value| load(&["-dev", "-stun=false"], &[(name, value)]);
    let depth = "TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH";
    assert_eq!(with(depth, "64").unwrap().config.queue.packets, 64);
    assert_eq!(with(depth, "8").unwrap().config.queue.packets, 32);
    assert!(with(depth, "many").is_err());
    assert!(with("TS_DERP_DISABLE_RTT_STATS", "maybe").is_err());
    assert!(with("TS_DERP_DISABLE_RTT_STATS", "false").unwrap().config.round_trips);
    assert!(!with("TS_DERP_DISABLE_RTT_STATS", "true").unwrap().config.round_trips);
    assert_eq!(with("DERP_DEBUG_LOGS", "false").unwrap().config.log_filter, None);
    let filter = with("DERP_DEBUG_LOGS", "true").unwrap().config.log_filter;
    assert_eq!(filter.as_deref(), Some("info,derpring=debug"));
    let both = [("DERP_DEBUG_LOGS", "true"), ("DERPRING_LOG", "warn")];
    assert_eq!(load(&["-dev"], &both).unwrap().config.log_filter.as_deref(), Some("warn"));
    assert!(with("DERP_DEBUG_LOGS", "maybe").is_err() && with("DERP_PROBER_DEBUG_LOGS", "maybe").is_err());
    for name in ["DERP_PROBER_DEBUG_LOGS", "TS_DEBUG_VERBOSE_DROPS", "SSLKEYLOGFILE"] {
        let warnings = with(name, "1").unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].starts_with(&format!("{name} has no effect: ")), "{warnings:?}");
        assert!(with(name, "").unwrap().warnings.is_empty());
    }
    assert!(with("DERPRING_PLACEMENT", "login").is_ok());
    assert!(with("DERPRING_PLACEMENT", "here").is_err());
    assert!(with("DERPRING_BUSY_POLL", "50").is_ok());
    assert!(with("DERPRING_BUSY_POLL", "1s").is_err());
}

#[test]
fn an_admin_listener_is_asked_for_in_the_environment() {
    let admin = |env: &[(&str, &str)]| load(&["-dev"], env).map(|loaded| loaded.config.admin);
    assert!(
        admin(&[]).unwrap().listen.is_empty() && admin(&[("DERPRING_ADMIN_LISTEN", "")]).unwrap().listen.is_empty()
    );
    let env = [("DERPRING_ADMIN_LISTEN", "127.0.0.1:1,unix:/a"), ("DERPRING_ADMIN_ALLOW", "10.0.0.0/8,192.0.2.1")];
    let config = admin(&env).unwrap();
    assert_eq!((config.listen.len(), config.allow.len()), (2, 2));
    let text = admin(&[("DERPRING_ADMIN_LISTEN", "1")]).unwrap_err().to_string();
    assert!(text.starts_with("DERPRING_ADMIN_LISTEN \"1\": the port is missing"), "{text}");
}

#[test]
fn who_may_debug_is_read_and_a_bad_value_is_named() {
    let access =
        |name, value: &str| load(&["-dev"], &[(name, value)]).map(|loaded| loaded.config.debug_on_main.unwrap());
    let ip: IpAddr = "192.0.2.1".parse().unwrap();
    assert!(!access("TS_DERP_DISABLE_RTT_STATS", "1").unwrap().allows(ip));
    assert!(access("TS_ALLOW_DEBUG_IP", "192.0.2.1").unwrap().allows(ip));
    assert!(access("TS_DEBUG_TRUSTED_CIDRS", " 10.0.0.0/8,, 192.0.2.77/24").unwrap().allows(ip));
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("key");
    let file = file.to_str().unwrap();
    for (name, value, content) in [
        ("TS_ALLOW_DEBUG_IP", "192.0.2", None),
        ("TS_DEBUG_TRUSTED_CIDRS", "192.0.2.1", None),
        ("TS_DEBUG_KEY_PATH", file, None),
        ("TS_DEBUG_KEY_PATH", file, Some(" \n")),
    ] {
        if let Some(content) = content {
            fs::write(file, content).unwrap();
        }
        let text = access(name, value).unwrap_err().to_string();
        assert!(text.starts_with(&format!("{name} {value:?}: ")), "{text}");
    }
    fs::write(file, "key").unwrap();
    assert_eq!(access("TS_DEBUG_KEY_PATH", file).unwrap().key_file, Some(file.into()));
}

#[test]
fn our_settings_come_from_the_environment() {
    let env = [
        ("DERPRING_TRUSTED_PROXY", "10.0.0.0/8,192.0.2.1"),
        ("DERPRING_MAX_CLIENTS", "77"),
        ("DERPRING_MAX_CLIENTS_PER_IP", ""),
        ("DERPRING_DRAIN_TIME", "30"),
        ("DERPRING_LOG_FORMAT", "json"),
        ("DERPRING_QUEUE_BYTES", "1MiB"),
        ("DERPRING_STUN_ANY", "true"),
        ("TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH", "64"),
    ];
    let Loaded { config, warnings, .. } = load(&["-dev"], &env).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(
        (config.trusted_proxies.ranges.len(), config.max_clients, config.max_clients_per_ip),
        (2, Some(77), None)
    );
    assert_eq!((config.drain_time.as_secs(), config.stun.any), (30, true));
    assert_eq!(config.queue, QueueLimits { packets: 64, bytes: 1 << 20 });
    assert_eq!(config.flush_on_stop, Duration::from_secs(1));
    let text = load(&["-dev"], &[("DERPRING_MAX_CLIENTS", "0")]).unwrap_err().to_string();
    assert!(text.starts_with("DERPRING_MAX_CLIENTS \"0\": give a number from 1"), "{text}");
    for (name, warning) in [
        ("DERPRING_LISTEN", "DERPRING_LISTEN has no effect: derper's own flags"),
        ("DERPRING_WORKRES", "DERPRING_WORKRES is no setting, and has no effect; did you mean DERPRING_WORKERS?"),
    ] {
        let warnings = load(&["-dev"], &[(name, "1")]).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].starts_with(warning), "{warnings:?}");
    }
    assert!(load(&["-dev"], &[("DERPRING_REQUIRE_GO", "1")]).unwrap().warnings.is_empty());
}

#[test]
fn certificates_may_come_from_an_authority_of_ones_own() {
    let env = [("DERPRING_ACME_DIRECTORY", "https://ca.example/dir")];
    let config = load(&["-hostname=a.example", "-certdir=/c"], &env).unwrap().config;
    let TlsMode::Acme(acme) = config.tls else { panic!("{:?}", config.tls) };
    assert_eq!(acme.directory, "https://ca.example/dir");
    let text = load(&["-certdir=/c"], &[("DERPRING_ACME_DIRECTORY", "ca.example")]).unwrap_err().to_string();
    assert!(text.starts_with("DERPRING_ACME_DIRECTORY \"ca.example\": give the https:// URL"), "{text}");
}

/// docs/DERPER.md has a row for each flag and variable, and none for what there is not.
#[test]
fn the_document_has_every_flag_and_variable() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/DERPER.md")).unwrap();
    let section = |from: &str| {
        let (_, text) = text.split_once(from).unwrap_or_else(|| panic!("a section {from:?}"));
        let rows = text.split("\n#").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
        rows.map(|row| row.split('`').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let host = Host { env: &|_| None, names: &[], exists: &|_| false, root: true };
    let mut flags: Vec<String> = flags::definitions(&host).iter().map(|def| format!("-{}", def.name)).collect();
    let mut rows = section("### Flags\n");
    flags.sort();
    rows.sort();
    assert_eq!(rows, flags);
    let mut variables: Vec<&str> = VARIABLES.to_vec();
    let mut rows = section("### Environment\n");
    variables.sort_unstable();
    rows.sort();
    assert_eq!(rows, variables);
    // Each is asked for when everything is read: by this part, or by another.
    let asked = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let env = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        None
    };
    let host = Host { env: &env, names: &[], exists: &|_| false, root: true };
    for args in [&["-dev".to_owned()][..], &["-a=:1".to_owned()]] {
        read(args, &host).unwrap();
    }
    for name in VARIABLES.iter().filter(|name| !ELSEWHERE.contains(name)) {
        assert!(asked.borrow().contains(*name), "nobody reads {name}");
    }
}

/// Read by other parts: the roots that outgoing TLS trusts, and what Go's HTTP client takes for proxies.
const ELSEWHERE: [&str; 5] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// A command line and its environment.
type Told<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

/// What serve is told by a translation is what derper was told, field for field.
#[test]
fn a_translation_says_the_same() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("mesh"), "ab".repeat(32)).unwrap();
    fs::write(path("key"), "debug").unwrap();
    fs::write(path("token"), "token").unwrap();
    let (mesh, key, token) = (format!("-mesh-psk-file={}", path("mesh")), path("key"), path("token"));
    let lists: &[Told<'_>] = &[
        (&["-a=:8443"], &[]),
        (&["-dev"], &[]),
        (&["-hostname=a.example", "-certdir=/c"], &[]),
        (&["-hostname=a.example", "-certdir=/c", "-acme-email=a@b.example", "-acme-ip-certs"], &[]),
        (&["-hostname=192.0.2.1", "-certdir=/c", "-acme-ip-certs"], &[]),
        (&["-hostname=a.example", "-certdir=/c", "-certmode=manual", "-c=/k"], &[]),
        (&["-hostname=192.0.2.1", "-certdir=/c", "-certmode=manual", "-a=192.0.2.1:443"], &[]),
        (&["-hostname=2001:db8::1", "-certdir=/c", "-certmode=manual", "-http-port=-1", "-stun=false"], &[]),
        (&["-a=127.0.0.1:8443", "-stun-port=1", "-http-port=8080", "-derp=false", "-ace", "-home=blank"], &[]),
        (&["-dev", "-home=https://a.example/?x=\"y'"], &[]),
        (&["-dev", "-bootstrap-dns-names=a.example,b.example", "-unpublished-bootstrap-dns-names=c.example"], &[]),
        (&["-dev", "-accept-connection-limit=2.5"], &[]),
        (&["-dev", "-accept-connection-limit=100", "-accept-connection-burst=7"], &[]),
        (&["-a=:1", &mesh, "-tcp-keepalive-time=0", "-tcp-user-timeout=1m30s", "-tcp-write-timeout=1500ms"], &[]),
        (&["-dev", "-tcp-keepalive-time=-1s", "-tcp-user-timeout=7ns"], &[]),
        (&["-dev"], &[("TS_ALLOW_DEBUG_IP", "192.0.2.1"), ("TS_DEBUG_TRUSTED_CIDRS", "10.1.2.3/8, 2001:db8::9/32")]),
        (&["-dev"], &[("TS_DEBUG_KEY_PATH", &key), ("TS_DERP_DISABLE_RTT_STATS", "1"), ("DERP_DEBUG_LOGS", "1")]),
        (&["-dev"], &[("TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH", "99"), ("DERPRING_PLACEMENT", "login")]),
        (&["-dev"], &[("DERPRING_ADMIN_LISTEN", "127.0.0.1:1,unix:/a"), ("DERPRING_ADMIN_ALLOW", "10.0.0.0/8")]),
        (&["-dev"], &[("DERPRING_ADMIN_LISTEN", "[::1]:1"), ("DERPRING_ADMIN_TOKEN_FILE", &token)]),
        (&["-dev"], &[("DERPRING_WORKERS", "3"), ("DERPRING_EDGES", "2"), ("DERPRING_BUSY_POLL", "50")]),
        (&["-dev"], &[("DERPRING_BACKEND", "epoll"), ("DERPRING_MAX_CLIENTS", "9"), ("DERPRING_LOG_FORMAT", "json")]),
        (&["-dev"], &[("DERPRING_TRUSTED_PROXY", "10.0.0.0/8"), ("DERPRING_TAKEOVER_SOCKET", "/t")]),
    ];
    for (args, env) in lists {
        let (translated, notes) = translated(args, env);
        assert_eq!(translated, load(args, env).unwrap().config, "{args:?} {env:?}");
        assert!(notes.iter().all(|note| !note.contains("no form") && !note.contains("is in no file")), "{notes:?}");
    }
}

/// Secrets that stand on the command line have no place in a file of settings: a comment says so.
#[test]
fn what_a_file_cannot_say_is_a_comment() {
    let binding = ["-hostname=a.example", "-certdir=/c", "-acme-eab-kid=k", "-acme-eab-key=c2VjcmV0"];
    let mesh = [("TAILSCALE_DERPER_MESH_KEY", &*"ab".repeat(32))];
    for (args, env, note) in [
        (&binding[..], &[][..], "acme.eab_key_file: the binding's key is in no file"),
        (&["-dev"], &mesh, "mesh.key_file: the mesh key is in no file"),
        (
            &["-certmode=manual", "-certdir=/c", "-accept-connection-limit=0"],
            &[],
            "accept.limit, accept.burst: a limit that lets nobody in",
        ),
        (&["-a=:8080"], &[], "serving plain HTTP: the port of :8080 is not 443"),
    ] {
        let text = translation(args, env);
        assert!(text.lines().any(|line| line.starts_with(&format!("# {note}"))), "{text}");
        assert!(!text.contains("c2VjcmV0") && !text.contains("abab"), "{text}");
    }
}

/// What the translation is read as, and its comments.
fn translated(args: &[&str], env: &[(&str, &str)]) -> (Config, Vec<String>) {
    let text = translation(args, env);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("relay.toml");
    fs::write(&file, &text).unwrap();
    let loaded = super::super::sources::Sources::new(["--config".into(), file.into_os_string()], []).load();
    let loaded = loaded.unwrap_or_else(|error| panic!("{error} in {text}"));
    (loaded.config, text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect())
}

fn translation(args: &[&str], env: &[(&str, &str)]) -> String {
    let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
    let host = Host { env: &env, names: &[], exists: &|_| false, root: true };
    translate(&args.iter().map(ToString::to_string).collect::<Vec<_>>(), &host).unwrap()
}

#[test]
fn all_addresses_means_both_families() {
    for text in [":8443", "0.0.0.0:8443", "[::]:8443"] {
        assert_eq!(load(&["-a", text], &[]).unwrap().config.listen, [tcp("[::]:8443")]);
    }
    assert_eq!(load(&["-a=127.0.0.1:0"], &[]).unwrap().config.listen, [tcp("127.0.0.1:0")]);
}

fn tcp(address: &str) -> ListenAddr {
    ListenAddr::Tcp(address.parse().unwrap())
}

fn load(args: &[&str], env: &[(&str, &str)]) -> Result<Loaded, DerperError> {
    let names_of: Vec<&str> = env.iter().map(|(name, _)| *name).collect();
    let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
    let names: Vec<String> = names_of.iter().map(ToString::to_string).collect();
    let host = Host { env: &env, names: &names, exists: &|_| false, root: true };
    match read(&args.iter().map(ToString::to_string).collect::<Vec<_>>(), &host)? {
        Request::Serve(loaded) => Ok(*loaded),
        Request::Version => unreachable!("no test asks for the version here"),
    }
}
