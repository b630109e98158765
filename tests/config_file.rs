//! The configuration file from outside: what is in it counts, `--check-config`, and the documents that list it.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{derpring, derpring_with, stderr, stdout};
use tempfile::TempDir;

/// docs/CONFIGURATION.md and deploy/examples/derpring.toml say what the flags say.
#[test]
fn the_documents_are_made_of_the_flags() {
    use derpring::config::reference::{example, markdown};
    for (path, wanted) in [("docs/CONFIGURATION.md", markdown()), ("deploy/examples/derpring.toml", example())] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        if std::env::var_os("DERPRING_WRITE_DOCS").is_some() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &wanted).unwrap();
        }
        let there = fs::read_to_string(&file).unwrap_or_default();
        let differs = wanted.lines().zip(there.lines()).find(|(wanted, there)| wanted != there);
        assert!(
            there == wanted,
            "{path} is not what the flags say, first at {differs:?}: \
             run `DERPRING_WRITE_DOCS=1 cargo test --test config_file` and commit it"
        );
    }
}

/// `--help`, the file's keys, the environment's names and the reference have the same settings.
#[test]
fn every_setting_is_in_the_help_and_in_the_reference() {
    let help = stdout(&derpring(&["serve", "--help"]));
    let reference = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md")).unwrap();
    for setting in derpring::config::settings::all() {
        let flag = &setting.flag;
        assert!(
            help.contains(&format!("{flag} "))
                || help.contains(&format!("{flag}\n"))
                || help.contains(&format!("{flag}[")),
            "{flag} in {help}"
        );
        assert!(reference.contains(&format!("| `{flag}` |")), "{flag} has no row");
        if let Some(variable) = &setting.variable {
            assert!(help.contains(&format!("[env: {variable}]")), "{variable} in {help}");
        }
    }
}

#[test]
fn check_config_prints_what_counts() {
    let dir = TempDir::new().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "a-secret").unwrap();
    fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
    let text = format!(
        "workers = 3\nkey_file = \"{0}/relay.key\"\n[cert]\nmode = \"none\"\n[admin]\ntoken_file = \"{0}/token\"\n",
        dir.path().display()
    );
    let file = dir.path().join("relay.toml");
    fs::write(&file, text).unwrap();
    let args = ["serve", "--config", file.to_str().unwrap(), "--check-config", "--edges=2"];
    let run = derpring_with(&args, &[("DERPRING_BACKEND", "epoll"), ("DERPRING_NONSENSE", "1")]);
    assert_eq!(run.status.code(), Some(0), "{}", stderr(&run));
    let printed = stdout(&run);
    for line in ["workers = 3", "edges = 2", "backend = \"epoll\"", "listen = [\"[::]:443\"]", "[queue]"] {
        assert!(printed.lines().any(|printed| printed == line), "{line:?} in {printed}");
    }
    assert!(!printed.contains("a-secret"), "{printed}");
    assert!(stderr(&run).contains("DERPRING_NONSENSE is no setting"), "{}", stderr(&run));
    assert!(stderr(&run).contains("relay.key is not there: it will be made"), "{}", stderr(&run));
    assert!(!dir.path().join("relay.key").exists(), "a check makes nothing");

    // What it prints is a file that comes to the same.
    let again = dir.path().join("again.toml");
    fs::write(&again, &printed).unwrap();
    let run = derpring(&["serve", "--check-config", "--config", again.to_str().unwrap()]);
    assert_eq!(stdout(&run), printed, "{}", stderr(&run));
}

#[test]
fn check_config_looks_at_what_is_named() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let check = |args: &[&str]| derpring(&[&["serve", "--check-config"], args].concat());
    let refused = |args: &[&str], message: &str| {
        let run = check(args);
        let text = stderr(&run);
        assert_eq!(run.status.code(), Some(1), "{args:?}: {text}");
        assert!(text.starts_with(&format!("derpring: {message}")) && text.lines().count() == 1, "{args:?}: {text}");
        assert_eq!(stdout(&run), "");
    };
    let key = format!("--key-file={}", path("relay.key"));
    fs::write(path("relay.key"), "{}").unwrap();
    refused(&["--cert-mode=none", &key], &format!("the key file {} is not usable", path("relay.key")));
    fs::remove_file(path("relay.key")).unwrap();

    let certs = format!("--cert-dir={}", dir.path().display());
    let manual = ["--cert-mode=manual", "--hostname=a.example,b.example", &certs, &key];
    refused(&manual, &format!("cannot read {}", path("a.example.crt")));
    for name in ["a.example", "b.example"] {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        fs::write(path(&format!("{name}.crt")), made.cert.pem()).unwrap();
        fs::write(path(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    assert_eq!(check(&manual).status.code(), Some(0), "{}", stderr(&check(&manual)));
    fs::copy(path("a.example.key"), path("b.example.key")).unwrap();
    refused(&manual, &format!("the private key in {} does not belong", path("b.example.key")));

    let make = ["--cert-mode=manual", "--hostname=192.0.2.1", "--cert-make", &certs, &key];
    let run = check(&make);
    assert!(stderr(&run).contains("a self-signed certificate will be made"), "{}", stderr(&run));
    assert!(!dir.path().join("192.0.2.1.crt").exists() && run.status.success());

    let limit = ["--cert-mode=none", &key, "--max-clients=1000000000000"];
    refused(&limit, "--max-clients 1000000000000 needs");
    refused(&["--config", "/nowhere/relay.toml"], "--config \"/nowhere/relay.toml\": cannot be read");
    fs::write(path("bad.toml"), "[cert]\nmode = \"none\"\nmod = 1\n").unwrap();
    let bad = path("bad.toml");
    refused(&["--config", &bad], &format!("{bad}:3: cert.mod is no setting; did you mean cert.mode?"));
}

/// A port that is taken is no reason for a check to fail, and one that is free stays so.
#[test]
fn check_config_binds_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    let run = derpring(&["serve", "--dev", "--check-config", &listen]);
    assert_eq!(run.status.code(), Some(0), "{}", stderr(&run));
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("admin");
    let listen = format!("--admin-listen=unix:{}", socket.display());
    assert!(derpring(&["serve", "--dev", "--check-config", &listen]).status.success() && !socket.exists());
}

/// derper's command line in our words, which our own check takes.
#[test]
fn a_translation_can_be_used() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("relay.toml");
    let certs = format!("-certdir={}", dir.path().display());
    let key = format!("-c={}", dir.path().join("derper.key").display());
    for args in [
        &["-dev"][..],
        &["-a=:8443", &key, "-stun-port=13478", "-home=blank", "-accept-connection-limit=7"],
        &["-hostname=192.0.2.1", "-certmode=manual", &certs, &key],
    ] {
        let run = derpring(&[&["derper", "--translate"], args].concat());
        assert_eq!(run.status.code(), Some(0), "{}", stderr(&run));
        fs::write(&file, stdout(&run)).unwrap();
        let check = derpring(&["serve", "--check-config", "--config", file.to_str().unwrap()]);
        assert_eq!(check.status.code(), Some(0), "{} for {}", stderr(&check), stdout(&run));
    }
    let run = derpring(&["derper", "--translate", "-nosuch"]);
    assert_eq!((run.status.code(), stdout(&run)), (Some(2), String::new()));
    let run = derpring(&["derper", "--translate", "-dev", "-verify-clients"]);
    assert_eq!(run.status.code(), Some(1));
}
