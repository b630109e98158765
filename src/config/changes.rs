//! What differs between two configurations, by the names of the file: what a relay that runs takes over, and what
//! waits for its next start.

use super::write::Written;
use super::{Loaded, TlsMode};

/// Settings that a reload changes.
pub const LIVE: [&str; 14] = [
    "accept.burst",
    "accept.limit",
    "admin.allow",
    "admin.token_file",
    "debug.allow",
    "debug.key_file",
    "debug.main",
    "debug.tailscale",
    "derp",
    "home",
    "log.filter",
    "max_clients",
    "max_clients_per_ip",
    "trusted_proxy",
];

/// Keys of settings, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub live: Vec<String>,
    /// Need a restart.
    pub later: Vec<String>,
}

impl Changes {
    /// What a reload from `old` to `new` would change.
    pub fn between(old: &Loaded, new: &Loaded) -> Self {
        let (before, after) = (values(old), values(new));
        let mut out = Self::default();
        for setting in super::settings::all() {
            let Some(key) = setting.key.as_ref().map(ToString::to_string) else { continue };
            let value = |values: &[(String, String)]| {
                values.iter().find(|(written, _)| *written == key).map(|(_, value)| value.clone())
            };
            // A file may have another content under the same name.
            let within = match &*key {
                "admin.token_file" => old.config.admin.token != new.config.admin.token,
                "mesh.key_file" => old.config.mesh_key != new.config.mesh_key,
                "acme.eab_key_file" => eab_key(old) != eab_key(new),
                _ => false,
            };
            if within || value(&before) != value(&after) {
                if LIVE.contains(&&*key) { &mut out.live } else { &mut out.later }.push(key);
            }
        }
        out
    }
}

fn eab_key(loaded: &Loaded) -> Option<&[u8]> {
    match &loaded.config.tls {
        TlsMode::Acme(acme) => acme.eab.as_ref().map(|eab| &*eab.key),
        _ => None,
    }
}

fn values(loaded: &Loaded) -> Vec<(String, String)> {
    let entries = Written::of(loaded).entries.into_iter();
    entries.filter_map(|(setting, value)| Some((setting.key.as_ref()?.to_string(), value.to_string()))).collect()
}
