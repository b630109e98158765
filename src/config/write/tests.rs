use std::ffi::OsString;
use std::fs;

use tempfile::TempDir;

use super::*;
use crate::config::changes::{Changes, LIVE};
use crate::config::sources::Sources;

fn load(args: &[String]) -> Loaded {
    Sources::new(args.iter().map(OsString::from), []).load().unwrap()
}

fn again(text: &str) -> Loaded {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("relay.toml");
    fs::write(&file, text).unwrap();
    load(&["--config".to_owned(), file.to_str().unwrap().to_owned()])
}

/// Files that a full configuration names.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(TempDir::new().unwrap());
        for (name, text) in
            [("mesh", &*"ab".repeat(32)), ("token", "secret-token"), ("eab", "c2VjcmV0"), ("debug", "d")]
        {
            fs::write(files.0.path().join(name), text).unwrap();
        }
        let made = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        fs::write(files.0.path().join("ca"), made.cert.pem()).unwrap();
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Every setting, none with its default.
    fn full(&self) -> Vec<String> {
        let path = |name: &str| self.path(name);
        [
            "--cert-mode=acme".to_owned(),
            "--listen=:1,unix:/run/relay".to_owned(),
            "--hostname=a.example,b.example".to_owned(),
            "--cert-dir=/certs \"here\"".to_owned(),
            "--key-file=/k".to_owned(),
            "--http-listen=127.0.0.1:80".to_owned(),
            "--stun-listen=127.0.0.1:1,[::1]:2".to_owned(),
            "--stun-any".to_owned(),
            "--admin-listen=127.0.0.1:3,unix:/run/admin".to_owned(),
            "--admin-allow=10.0.0.0/8,192.0.2.1".to_owned(),
            format!("--admin-token-file={}", path("token")),
            "--debug-main".to_owned(),
            "--debug-tailscale".to_owned(),
            "--debug-allow=2001:db8::/32".to_owned(),
            format!("--debug-key-file={}", path("debug")),
            "--trusted-proxy=10.1.0.0/16".to_owned(),
            "--derp=false".to_owned(),
            "--ace".to_owned(),
            "--home=https://a.example/".to_owned(),
            "--bootstrap-dns=a.example".to_owned(),
            "--unpublished-bootstrap-dns=b.example".to_owned(),
            format!("--mesh-key-file={}", path("mesh")),
            "--accept-limit=2.5".to_owned(),
            "--accept-burst=9".to_owned(),
            "--max-clients=10".to_owned(),
            "--max-clients-per-ip=3".to_owned(),
            "--workers=2".to_owned(),
            "--edges=2".to_owned(),
            "--placement=login".to_owned(),
            "--busy-poll=7".to_owned(),
            "--backend=epoll".to_owned(),
            "--queue-packets=64".to_owned(),
            "--queue-bytes=1MiB".to_owned(),
            "--round-trips=false".to_owned(),
            "--tcp-write-timeout=1500ms".to_owned(),
            "--tcp-user-timeout=1m".to_owned(),
            "--tcp-keepalive-time=0".to_owned(),
            "--log-format=json".to_owned(),
            "--log=info,derpring::edge=debug".to_owned(),
            "--flush-time=3s".to_owned(),
            "--drain-time=60".to_owned(),
            "--takeover-socket=/run/takeover".to_owned(),
            "--acme-directory=https://ca.example/dir".to_owned(),
            format!("--acme-ca-file={}", path("ca")),
            "--acme-email=a@b.example".to_owned(),
            "--acme-eab-kid=kid".to_owned(),
            format!("--acme-eab-key-file={}", path("eab")),
            "--acme-ip-certs".to_owned(),
        ]
        .to_vec()
    }
}

#[test]
fn what_is_written_reads_as_the_same() {
    let files = Files::new();
    let manual = ["--cert-mode=manual", "--hostname=192.0.2.1,2001:db8::1", "--cert-make"].map(str::to_owned);
    for args in [
        vec!["--dev".to_owned()],
        vec!["--cert-mode=none".to_owned()],
        vec!["--cert-mode=self-signed".to_owned(), "--hostname=a.example".to_owned()],
        manual.to_vec(),
        files.full(),
    ] {
        let loaded = load(&args);
        let text = loaded.to_toml();
        let read = again(&text);
        assert_eq!(read.config, loaded.config, "{text}");
        assert_eq!(read.secrets, loaded.secrets);
        assert_eq!(read.to_toml(), text);
        assert!(!text.contains("secret-token") && !text.contains("abab") && !text.contains("c2Vj"), "{text}");
    }
}

#[test]
fn every_setting_is_written() {
    let files = Files::new();
    let full = load(&files.full());
    let written = Written::of(&full);
    for setting in settings::all().iter().filter(|setting| setting.key.is_some() && setting.id != "cert_make") {
        let there = written.entries.iter().any(|(known, _)| known.id == setting.id);
        assert!(there, "{} is not written", setting.flag);
    }
    assert_eq!(written.entries.len() + 1, settings::all().iter().filter(|setting| setting.key.is_some()).count());
    assert!(written.notes.is_empty());
}

/// Each setting, changed alone, is a change of itself and of nothing else, and is known as one or the other kind.
#[test]
fn a_change_is_named_by_its_key() {
    let files = Files::new();
    let full = files.full();
    let before = load(&full);
    assert_eq!(Changes::between(&before, &before.clone()), Changes::default());
    let fewer =
        ["--cert-mode", "--hostname", "--acme-eab-kid", "--acme-eab-key-file", "--debug-main", "--accept-limit"];
    let mut seen = Vec::new();
    for (at, flag) in full.iter().enumerate() {
        let name = flag.split('=').next().unwrap();
        if fewer.contains(&name) {
            continue;
        }
        let mut args = full.clone();
        args.remove(at);
        let Changes { live, later } = Changes::between(&before, &load(&args));
        let setting = settings::all().iter().find(|setting| setting.flag == name).unwrap();
        let key = setting.key.as_ref().unwrap().to_string();
        let (wanted, other) = if LIVE.contains(&&*key) { (live, later) } else { (later, live) };
        assert_eq!((wanted, other), (vec![key.clone()], vec![]), "{name}");
        seen.push(key);
    }
    for key in LIVE.iter().filter(|key| !["debug.main", "accept.limit"].contains(key)) {
        assert!(seen.iter().any(|seen| seen == key), "{key} is a setting");
    }
}

#[test]
fn another_secret_in_the_same_file_is_a_change() {
    let files = Files::new();
    let before = load(&files.full());
    fs::write(files.path("token"), "another").unwrap();
    assert_eq!(Changes::between(&before, &load(&files.full())).live, ["admin.token_file"]);
    fs::write(files.path("mesh"), "cd".repeat(32)).unwrap();
    fs::write(files.path("eab"), "b3RoZXI=").unwrap();
    let changes = Changes::between(&before, &load(&files.full()));
    assert_eq!(changes.later, ["mesh.key_file", "acme.eab_key_file"]);
}

#[test]
fn times_keep_all_that_they_are() {
    for (nanos, text) in
        [(0, "0"), (2_000_000_000, "2s"), (1_500_000_000, "1500ms"), (7, "7ns"), (1_000_001, "1000001ns")]
    {
        assert_eq!(time(Duration::from_nanos(nanos)), text);
    }
}
