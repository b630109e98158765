//! Every flag of derper: what is built, and what is refused by name.

use std::path::{Path, PathBuf};

use super::Host;
use crate::config::ConfigError;
use crate::config::go_flags::{Def, Flags, Kind};

/// All of derper's flags, with the defaults that they have on this host.
pub(super) fn definitions(host: &Host<'_>) -> Vec<Def> {
    BUILT.iter().chain(UNBUILT).map(|row| row.def(host)).collect()
}

/// Refuses every flag whose effect is not built, unless its value is the one that asks for nothing.
pub(super) fn refuse_unbuilt(flags: &Flags, host: &Host<'_>) -> Result<(), ConfigError> {
    for row in UNBUILT {
        let def = row.def(host);
        let value = flags.value(def.name);
        let off = match def.kind {
            Kind::Text => flags.text(def.name).is_empty(),
            _ => false,
        };
        if !off && *value != def.default_value() {
            let default = if def.default.is_empty() { "nothing" } else { &def.default };
            return Err(ConfigError::not_built(
                format!("-{}", def.name),
                format!("leave the flag out; it takes its default only ({default})"),
            ));
        }
    }
    Ok(())
}

struct Row(&'static str, Kind, &'static str, &'static str);

impl Row {
    fn def(&self, host: &Host<'_>) -> Def {
        let default = match self.0 {
            "certdir" => cache_dir(host).map_or_else(String::new, |dir| text(&dir.join("tailscale/derper-certs"))),
            "mesh-psk-file" => mesh_psk_file(host),
            "secrets-cache-dir" => {
                host.env("HOME").map_or_else(String::new, |home| text(&Path::new(&home).join(".cache/derper-secrets")))
            }
            _ => self.2.to_owned(),
        };
        Def { name: self.0, kind: self.1, default, help: self.3 }
    }
}

const BUILT: &[Row] = &[
    Row("dev", Kind::Bool, "false", "run on :3340 with a key made at start; -a and -c are ignored"),
    Row("version", Kind::Bool, "false", "print the version and exit"),
    Row("a", Kind::Text, ":443", "listen address; without an IP, all of them; TLS when the port is 443"),
    Row("http-port", Kind::Int, "80", "port of the plain HTTP listener beside TLS, -1 for off"),
    Row("stun-port", Kind::Int, "3478", "UDP port for STUN"),
    Row("stun", Kind::Bool, "true", "run a STUN server"),
    Row("c", Kind::Text, "", "key file, made when absent; root may leave it out: /var/lib/derper/derper.key"),
    Row("certmode", Kind::Text, "letsencrypt", "letsencrypt, gcp, or manual; the first two only on port 443"),
    Row("certdir", Kind::Text, "", "directory of <hostname>.crt and <hostname>.key"),
    Row("hostname", Kind::Text, "derp.tailscale.com", "host name of the certificate, or an IP address"),
    Row("home", Kind::Text, "", "what / shows: nothing for a page about DERP, blank, or a URL to redirect to"),
    Row("acme-eab-kid", Kind::Text, "", "key identifier of an external account binding; gcp needs one"),
    Row("acme-eab-key", Kind::Text, "", "key of that binding, in base64"),
    Row("acme-email", Kind::Text, "", "where the certificate authority may write to; gcp needs one"),
    Row("acme-ip-certs", Kind::Bool, "false", "certificates for the IP addresses that clients connect to"),
    Row("derp", Kind::Bool, "true", "serve /derp"),
    Row("bootstrap-dns-names", Kind::Text, "", "names, with commas, whose addresses /bootstrap-dns tells"),
    Row("unpublished-bootstrap-dns-names", Kind::Text, "", "the same, told only to those who ask for one of them"),
    Row("accept-connection-limit", Kind::Float, "+Inf", "new connections per second that are let in"),
    Row("accept-connection-burst", Kind::Int, "9223372036854775807", "new connections that may come at once"),
    Row("ace", Kind::Bool, "false", "answer CONNECT to the control plane"),
    Row("mesh-psk-file", Kind::Text, "", "file with the mesh key: 64 hex characters"),
    Row("tcp-keepalive-time", Kind::Duration, "10m0s", "idle time before the first TCP keepalive"),
    Row("tcp-user-timeout", Kind::Duration, "15s", "TCP user timeout"),
    Row("tcp-write-timeout", Kind::Duration, "2s", "time without progress after which a write fails; 0 for never"),
];

const NOT_BUILT: &str = "not built yet: refused unless it has its default";

const UNBUILT: &[Row] = &[
    Row("mesh-with", Kind::Text, "", NOT_BUILT),
    Row("secrets-url", Kind::Text, "", NOT_BUILT),
    Row("secrets-path-prefix", Kind::Text, "prod/derp", NOT_BUILT),
    Row("secrets-cache-dir", Kind::Text, "", NOT_BUILT),
    Row("verify-clients", Kind::Bool, "false", NOT_BUILT),
    Row("verify-client-url", Kind::Text, "", NOT_BUILT),
    Row("verify-client-url-fail-open", Kind::Bool, "true", NOT_BUILT),
    Row("socket", Kind::Text, "", NOT_BUILT),
    Row("rate-config", Kind::Text, "", NOT_BUILT),
];

/// Go's user cache directory.
fn cache_dir(host: &Host<'_>) -> Option<PathBuf> {
    match host.env("XDG_CACHE_HOME") {
        Some(dir) => Some(PathBuf::from(dir)).filter(|dir| dir.is_absolute()),
        None => host.env("HOME").map(|home| Path::new(&home).join(".cache")),
    }
}

fn mesh_psk_file(host: &Host<'_>) -> String {
    let home = host.env("HOME").map(|home| Path::new(&home).join("keys/derp-mesh.key"));
    let places = [Some(PathBuf::from("/home/derp/keys/derp-mesh.key")), home];
    places.into_iter().flatten().find(|path| (host.exists)(path)).map_or_else(String::new, |path| text(&path))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
