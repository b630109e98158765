//! Every configuration that documents and examples show can be used as it stands.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{derpring, stderr};
use tempfile::TempDir;

/// Where the examples have their files: here it is a directory of the test.
const PLACE: &str = "/etc/derpring";

#[test]
fn every_toml_can_be_used() {
    let place = Place::new();
    let mut shown = 0;
    for (name, text) in texts() {
        let file = place.0.path().join("shown.toml");
        fs::write(&file, text.replace(PLACE, place.path())).unwrap();
        let run = derpring(&["serve", "--check-config", "--config", file.to_str().unwrap()]);
        assert_eq!(run.status.code(), Some(0), "{name}: {}\n{text}", stderr(&run));
        shown += 1;
    }
    assert!(shown >= 5, "there are examples: {shown}");
}

/// Files under deploy, and blocks of documents.
fn texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut out = Vec::new();
    for dir in ["deploy", "docs"] {
        files(&root.join(dir), &mut |path| {
            let name = path.display().to_string();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("toml") => out.push((name, fs::read_to_string(path).unwrap())),
                Some("md") => blocks(&name, &fs::read_to_string(path).unwrap(), &mut out),
                _ => {}
            }
        });
    }
    let readme = root.join("README.md");
    blocks("README.md", &fs::read_to_string(readme).unwrap(), &mut out);
    out
}

fn files(dir: &Path, each: &mut impl FnMut(&Path)) {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() { files(&path, each) } else { each(&path) }
    }
}

fn blocks(name: &str, text: &str, out: &mut Vec<(String, String)>) {
    for (at, block) in text.split("```toml\n").skip(1).enumerate() {
        let block = block.split("```").next().unwrap();
        out.push((format!("{name}, block {}", at + 1), block.to_owned()));
    }
}

/// What the examples name, as it would be on a relay's machine.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().unwrap());
        let at = |name: &str| place.0.path().join(name);
        fs::create_dir(at("certs")).unwrap();
        let made = rcgen::generate_simple_self_signed(["derp.example.com".to_owned()]).unwrap();
        fs::write(at("certs/derp.example.com.crt"), made.cert.pem()).unwrap();
        fs::write(at("certs/derp.example.com.key"), made.signing_key.serialize_pem()).unwrap();
        for (name, text) in [("token", "a-token".to_owned()), ("mesh.key", "ab".repeat(32))] {
            fs::write(at(name), text).unwrap();
            fs::set_permissions(at(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        place
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}
