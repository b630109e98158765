//! What a reload changes of a relay that runs.

use std::path::PathBuf;
use std::sync::Arc;

use super::{live, nofile};
use crate::admin;
use crate::config::Loaded;
use crate::control::logging::{Control, default_filter};
use crate::control::reload;
use crate::control::systemd::Notify;
use crate::edge;
use crate::tls::identity::{Certificates, Reloaded};

pub(super) struct Reins {
    pub edge: edge::Reins,
    pub admin: admin::Reins,
    /// `None` without TLS.
    pub certificates: Option<Certificates>,
    pub notify: Arc<Notify>,
    pub log: Control,
    pub workers: usize,
    pub edges: usize,
}

impl reload::Reins for Reins {
    fn check(&self, loaded: &Loaded) -> Result<(), String> {
        self.max_clients(loaded).map(drop).map_err(|error| error.to_string())
    }

    fn tell(&self, reloading: bool) {
        if reloading { self.notify.reloading() } else { self.notify.ready() }
    }

    fn take_over(&mut self, before: &Loaded, now: &Loaded) {
        let config = &now.config;
        if let Ok(max) = self.max_clients(now) {
            self.edge.reconfigure(live(config, max));
            self.admin.limit_clients(max);
        }
        self.admin.admit(config.admin.clone());
        self.admin.debug_key(config.debug_on_main.as_ref().and_then(|access| access.key_file.clone()));
        // Who changed it by hand meanwhile keeps that, unless the configuration has another now.
        if config.log_filter != before.config.log_filter {
            let filter = config.log_filter.clone().unwrap_or_else(default_filter);
            if let Err(problem) = self.log.set_filter(&filter) {
                tracing::warn!("the log stays as it is: {filter:?}: {problem}");
            }
        }
    }

    fn certificates(&mut self) -> Result<Vec<String>, String> {
        let Some(certificates) = &self.certificates else { return Ok(Vec::new()) };
        match certificates.reload() {
            Ok(Reloaded::Same) => Ok(Vec::new()),
            Ok(Reloaded::Changed(names)) => Ok(names),
            Err(error) => Err(error.to_string()),
        }
    }

    fn certificate_files(&self) -> Vec<PathBuf> {
        self.certificates.as_ref().map_or_else(Vec::new, Certificates::files)
    }
}

impl Reins {
    fn max_clients(&self, loaded: &Loaded) -> Result<usize, nofile::NofileError> {
        nofile::prepare(loaded.config.max_clients, self.workers, self.edges)
    }
}
