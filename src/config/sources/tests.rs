use std::fs;

use tempfile::TempDir;

use super::*;
use crate::config::Backend;

fn sources(args: &[&str], env: &[(&str, &str)]) -> Sources {
    Sources::new(args.iter().map(OsString::from), env.iter().map(|(name, value)| (name.into(), value.into())))
}

fn load(args: &[&str], env: &[(&str, &str)]) -> Result<Loaded, SourceError> {
    sources(args, env).load()
}

fn file(dir: &TempDir, text: &str) -> String {
    let file = dir.path().join("relay.toml");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn flags_come_before_the_environment_and_that_before_the_file() {
    let dir = TempDir::new().unwrap();
    let config = file(&dir, "workers = 1\nedges = 1\nbackend = \"epoll\"\n[cert]\nmode = \"none\"\n");
    let env = [("DERPRING_WORKERS", "2"), ("DERPRING_EDGES", "2"), ("DERPRING_CONFIG", &*config)];
    let loaded = load(&["--workers=3"], &env).unwrap();
    assert_eq!((loaded.config.workers, loaded.config.edges), (Some(3), Some(2)));
    assert_eq!(loaded.config.backend, Backend::Epoll);
    assert_eq!(loaded.file.as_deref(), Some(Path::new(&config)));
    assert_eq!(loaded.files(), [Path::new(&config)]);

    let other = TempDir::new().unwrap();
    let flag = format!("--config={}", file(&other, "cert.mode = \"none\"\nworkers = 7\n"));
    let loaded = load(&[&flag], &[("DERPRING_CONFIG", &*config)]).unwrap();
    assert_eq!((loaded.config.workers, loaded.config.edges), (Some(7), None), "one file, not two");
}

#[test]
fn a_switch_can_be_turned_off_by_who_comes_first() {
    let dir = TempDir::new().unwrap();
    let config = format!("--config={}", file(&dir, "cert.mode = \"none\"\nderp = false\n[stun]\nany = true\n"));
    let loaded = load(&[&config], &[]).unwrap().config;
    assert!(loaded.stun.any && !loaded.derp);
    let loaded = load(&[&config, "--stun-any=false", "--derp"], &[]).unwrap().config;
    assert!(!loaded.stun.any && loaded.derp);
    let loaded = load(&[&config], &[("DERPRING_STUN_ANY", "0"), ("DERPRING_DERP", "")]).unwrap().config;
    assert!(!loaded.stun.any && !loaded.derp, "a variable without a value says nothing");
}

#[test]
fn lists_do_not_add_up_and_can_be_empty() {
    let dir = TempDir::new().unwrap();
    let text = "listen = [\":1\", \":2\"]\ntrusted_proxy = []\nhostname = []\nbootstrap_dns = []\n\
                [cert]\nmode = \"none\"\n[stun]\nlisten = []\n[admin]\nlisten = []\nallow = []\n[debug]\nallow = []\n";
    let config = format!("--config={}", file(&dir, text));
    let loaded = load(&[&config], &[]).unwrap().config;
    assert_eq!(loaded.listen.len(), 2);
    assert!(loaded.stun.listen.is_empty() && loaded.admin.listen.is_empty() && loaded.bootstrap_dns.names.is_empty());
    assert_eq!(load(&[&config, "--listen=:3"], &[]).unwrap().config.listen.len(), 1);
    let loaded = load(&[&config], &[("DERPRING_STUN_LISTEN", ":5,:6")]).unwrap().config;
    assert_eq!(loaded.stun.listen.len(), 2);
    let loaded = load(&["--cert-mode=none"], &[("DERPRING_STUN_LISTEN", "")]).unwrap().config;
    assert!(loaded.stun.listen.is_empty(), "an empty value says off");
}

#[test]
fn a_mistake_is_named_as_it_was_written() {
    let dir = TempDir::new().unwrap();
    let config = file(&dir, "[cert]\nmode = \"none\"\n\n[queue]\npackets = 8\n");
    let flag = format!("--config={config}");
    let named = |args: &[&str], env: &[(&str, &str)]| load(args, env).unwrap_err().to_string();
    let text = named(&[&flag], &[]);
    assert!(text.starts_with(&format!("{config}:5: queue.packets \"8\": give a number from 32 to")), "{text}");
    let text = named(&[&flag], &[("DERPRING_QUEUE_PACKETS", "9")]);
    assert!(text.starts_with("DERPRING_QUEUE_PACKETS \"9\": give a number from 32"), "{text}");
    let text = named(&[&flag, "--queue-packets=10"], &[("DERPRING_QUEUE_PACKETS", "9")]);
    assert!(text.starts_with("--queue-packets \"10\": give a number from 32"), "{text}");
    let text = named(&["--dev"], &[("DERPRING_STUN_ANY", "perhaps")]);
    assert!(text.starts_with("DERPRING_STUN_ANY \"perhaps\": write true or false"), "{text}");
    let text = named(&["--dev"], &[("DERPRING_CONFIG", "/nowhere/a.toml")]);
    assert!(text.contains("/nowhere/a.toml\": cannot be read"), "{text}");
}

#[test]
fn what_looks_like_a_setting_in_the_environment_is_said() {
    let warnings = |name: &str| load(&["--dev"], &[(name, "x")]).unwrap().warnings;
    assert_eq!(
        warnings("DERPRING_MAX_CLIENT"),
        ["DERPRING_MAX_CLIENT is no setting, and has no effect; did you mean DERPRING_MAX_CLIENTS?"]
    );
    assert_eq!(warnings("DERPRING_ZEBRA"), ["DERPRING_ZEBRA is no setting, and has no effect"]);
    for name in ["DERPRING_REQUIRE_GO", "DERPRING_SIM_SEEDS", "DERPRING_TEST_X", "OTHER", "PATH"] {
        assert!(warnings(name).is_empty(), "{name}");
    }
}

#[test]
fn usage_is_an_error_of_its_own() {
    for args in [&["--nosuch"][..], &["extra"], &["--help"], &["--workers"]] {
        assert!(matches!(load(args, &[]), Err(SourceError::Usage(_))), "{args:?}");
        assert!(matches!(sources(args, &[]).only_check(), Err(SourceError::Usage(_))), "{args:?}");
    }
    assert!(sources(&["--check-config"], &[]).only_check().unwrap());
    assert!(!sources(&["--dev"], &[]).only_check().unwrap());
}

/// Read again, the file has what it has by then.
#[test]
fn the_same_sources_read_what_is_there_now() {
    let dir = TempDir::new().unwrap();
    let config = file(&dir, "cert.mode = \"none\"\nmax_clients = 5\n");
    let sources = sources(&["--config", &config, "--workers=1"], &[]);
    assert_eq!(sources.load().unwrap().config.max_clients, Some(5));
    file(&dir, "cert.mode = \"none\"\nmax_clients = 6\nworkers = 4\n");
    let now = sources.load().unwrap().config;
    assert_eq!((now.max_clients, now.workers), (Some(6), Some(1)));
}
