//! `--check-config`: would a relay start with this? Nothing is bound, made or changed.

use std::path::Path;

use crate::config::{KeySource, Loaded, TlsMode, keys};
use crate::control::{cores, nofile};
use crate::relay::StartError;
use crate::tls::identity;

/// Looks at everything that the configuration names. Returns what the start would make, a line each.
///
/// # Errors
/// What would keep the relay from starting.
pub(super) fn check(loaded: &Loaded) -> Result<Vec<String>, StartError> {
    let config = &loaded.config;
    let mut notes = Vec::new();
    if let KeySource::File(path) = &config.key {
        match path.try_exists() {
            Ok(false) => notes.push(format!("the key file {} is not there: it will be made", path.display())),
            // What cannot be looked at cannot be read either, and the error says so.
            _ => {
                keys::load(path)?;
            }
        }
    }
    match &config.tls {
        TlsMode::Manual { dir, hostnames, make_if_absent } => {
            for name in hostnames {
                certificate(dir, name, *make_if_absent, &mut notes)?;
            }
        }
        TlsMode::None | TlsMode::SelfSigned { .. } | TlsMode::Acme(_) => {}
    }
    let workers = config.workers.unwrap_or_else(|| cores::usable().usable);
    nofile::prepare(config.max_clients, workers, config.edges.unwrap_or(workers.div_ceil(4)))?;
    Ok(notes)
}

fn certificate(dir: &Path, name: &str, make: bool, notes: &mut Vec<String>) -> Result<(), StartError> {
    let (crt, key) = identity::file_names(dir, name);
    if make && !crt.exists() && !key.exists() {
        notes.push(format!("{} is not there: a self-signed certificate will be made", crt.display()));
        return Ok(());
    }
    let mode = TlsMode::Manual { dir: dir.to_owned(), hostnames: vec![name.to_owned()], make_if_absent: false };
    identity::load(&mode, &[1; 32])?;
    Ok(())
}
