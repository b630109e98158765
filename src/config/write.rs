//! A configuration as the file that it could have been read from. Secrets are never in it, only where they lie.

use std::fmt::{Display, Write as _};
use std::path::Path;
use std::time::Duration;

use toml::Value;

use super::settings::{self, Setting};
use super::{
    AcceptLimit, AcmeConfig, Backend, BootstrapDns, Config, DebugAccess, HomePage, KeySource, Loaded, LogFormat,
    QueueLimits, SecretFiles, StunConfig, Takeover, TcpOptions, TlsMode,
};

/// A setting and its value, in the order of the file.
pub(super) type Entry = (&'static Setting, Value);

/// What a configuration comes to, as entries of a file.
pub(super) struct Written {
    pub entries: Vec<Entry>,
    /// What a file cannot say, and what to do instead.
    pub notes: Vec<String>,
}

impl Written {
    pub fn of(loaded: &Loaded) -> Self {
        let mut out = Self { entries: Vec::new(), notes: Vec::new() };
        out.all(&loaded.config, &loaded.secrets);
        out
    }

    /// The text of the file, with notes as comments in front.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for note in &self.notes {
            writeln!(out, "# {note}").expect("a string takes everything");
        }
        text(&mut out, None, &self.entries);
        for table in settings::TABLES {
            text(&mut out, Some(table), &self.entries);
        }
        out
    }

    fn all(&mut self, config: &Config, secrets: &SecretFiles) {
        // By name: a field that is forgotten here does not compile.
        let Config {
            listen,
            tls,
            http,
            stun: StunConfig { listen: stun, any },
            derp,
            bootstrap_dns: BootstrapDns { names, unpublished },
            connect,
            trusted_proxies,
            accept_limit,
            key,
            mesh_key,
            home,
            debug_on_main,
            admin,
            workers,
            edges,
            moves,
            busy_poll,
            backend,
            queue: QueueLimits { packets, bytes },
            max_clients,
            max_clients_per_ip,
            round_trips,
            tcp: TcpOptions { write_timeout, user_timeout, keepalive_time },
            log,
            log_filter,
            flush_on_stop,
            drain_time,
            takeover: Takeover { take: _, socket },
        } = config;
        self.list("listen", listen);
        self.tls(tls, secrets);
        match key {
            KeySource::Ephemeral => self.text_of("key_file", ""),
            KeySource::File(path) => self.path("key_file", Some(path)),
        }
        self.list("http_listen", http);
        self.list("stun_listen", stun);
        self.put("stun_any", *any);
        self.list("admin_listen", &admin.listen.iter().map(|address| address.written()).collect::<Vec<_>>());
        self.list("admin_allow", &admin.allow);
        self.path("admin_token_file", secrets.admin_token.as_deref());
        self.debug(debug_on_main.as_ref());
        self.list("trusted_proxy", &trusted_proxies.written());
        self.put("derp", *derp);
        self.put("ace", *connect);
        self.text_of(
            "home",
            match home {
                HomePage::Default => "",
                HomePage::Blank => "blank",
                HomePage::Redirect(url) => url,
            },
        );
        self.list("bootstrap_dns", names);
        self.list("unpublished_bootstrap_dns", unpublished);
        self.path("mesh_key_file", secrets.mesh_key.as_deref());
        if mesh_key.is_some() && secrets.mesh_key.is_none() {
            self.note("mesh.key_file: the mesh key is in no file; write it into one and name it there");
        }
        self.accept(*accept_limit);
        self.count("max_clients", *max_clients);
        self.count("max_clients_per_ip", *max_clients_per_ip);
        self.count("workers", *workers);
        self.count("edges", *edges);
        self.text_of("placement", if *moves { "traffic" } else { "login" });
        self.put("busy_poll", busy_poll.as_micros() as i64);
        self.text_of(
            "backend",
            match backend {
                Backend::Auto => "auto",
                Backend::Uring => "uring",
                Backend::Epoll => "epoll",
            },
        );
        self.put("queue_packets", i64::from(*packets));
        self.put("queue_bytes", i64::from(*bytes));
        self.put("round_trips", *round_trips);
        self.text_of("tcp_write_timeout", &time(*write_timeout));
        self.text_of("tcp_user_timeout", &time(*user_timeout));
        self.text_of("tcp_keepalive_time", &time(*keepalive_time));
        self.text_of(
            "log_format",
            match log {
                LogFormat::Human => "human",
                LogFormat::Json => "json",
            },
        );
        if let Some(filter) = log_filter {
            self.text_of("log", filter);
        }
        self.text_of("flush_time", &time(*flush_on_stop));
        self.put("drain_time", drain_time.as_secs() as i64);
        self.path("takeover_socket", socket.as_deref());
        let order = |id: &str| settings::all().iter().position(|setting| setting.id == id);
        self.entries.sort_by_key(|(setting, _)| order(&setting.id));
    }

    fn tls(&mut self, tls: &TlsMode, secrets: &SecretFiles) {
        match tls {
            TlsMode::None => self.text_of("cert_mode", "none"),
            TlsMode::Manual { dir, hostnames, make_if_absent } => {
                self.text_of("cert_mode", "manual");
                self.path("cert_dir", Some(dir));
                self.list("hostname", hostnames);
                self.put("cert_make", *make_if_absent);
            }
            TlsMode::SelfSigned { hostname } => {
                self.text_of("cert_mode", "self-signed");
                self.list("hostname", std::slice::from_ref(hostname));
            }
            TlsMode::Acme(acme) => self.acme(acme, secrets),
        }
    }

    fn acme(&mut self, acme: &AcmeConfig, secrets: &SecretFiles) {
        let AcmeConfig { hostnames, dir, directory, ca_file, email, eab, ip_certs } = acme;
        self.text_of("cert_mode", "acme");
        self.path("cert_dir", Some(dir));
        self.list("hostname", hostnames);
        self.text_of("acme_directory", directory);
        self.path("acme_ca_file", ca_file.as_deref());
        if let Some(email) = email {
            self.text_of("acme_email", email);
        }
        if let Some(eab) = eab {
            self.text_of("acme_eab_kid", &eab.kid);
            self.path("acme_eab_key_file", secrets.eab_key.as_deref());
            if secrets.eab_key.is_none() {
                self.note("acme.eab_key_file: the binding's key is in no file; write it into one and name it there");
            }
        }
        self.put("acme_ip_certs", *ip_certs);
    }

    fn debug(&mut self, access: Option<&DebugAccess>) {
        self.put("debug_main", access.is_some());
        let nobody = DebugAccess::default();
        let DebugAccess { tailscale, trusted, key_file } = access.unwrap_or(&nobody);
        self.put("debug_tailscale", *tailscale);
        self.list("debug_allow", trusted);
        self.path("debug_key_file", key_file.as_deref());
    }

    fn accept(&mut self, limit: Option<AcceptLimit>) {
        match limit {
            Some(AcceptLimit { per_second, burst }) if per_second > 0.0 && burst > 0 => {
                self.put("accept_limit", per_second);
                self.put("accept_burst", i64::try_from(burst).unwrap_or(i64::MAX));
            }
            Some(_) => self.note("accept.limit, accept.burst: a limit that lets nobody in has no form here"),
            None => {}
        }
    }

    fn put(&mut self, id: &str, value: impl Into<Value>) {
        self.entries.push((settings::by_id(id), value.into()));
    }

    fn text_of(&mut self, id: &str, text: &str) {
        self.put(id, text);
    }

    fn path(&mut self, id: &str, path: Option<&Path>) {
        if let Some(path) = path {
            if path.to_str().is_none() {
                self.note(&format!("{id}: the path is not UTF-8, and has no form in TOML"));
            }
            self.put(id, &*path.to_string_lossy());
        }
    }

    fn list(&mut self, id: &str, items: &[impl Display]) {
        self.put(id, items.iter().map(ToString::to_string).collect::<Vec<_>>());
    }

    fn count(&mut self, id: &str, count: Option<usize>) {
        if let Some(count) = count {
            self.put(id, i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }
}

fn text(out: &mut String, table: Option<&str>, entries: &[Entry]) {
    let mut begun = table.is_none();
    for (setting, value) in entries {
        let Some(key) = setting.key.as_ref().filter(|key| key.table == table) else { continue };
        if !begun {
            write!(out, "\n[{}]\n", table.unwrap_or_default()).expect("a string takes everything");
            begun = true;
        }
        writeln!(out, "{} = {value}", key.name).expect("a string takes everything");
    }
}

/// In a form that keeps all of it.
fn time(time: Duration) -> String {
    match (time.as_nanos(), time.subsec_nanos()) {
        (0, _) => "0".to_owned(),
        (_, 0) => format!("{}s", time.as_secs()),
        (nanos, part) if part % 1_000_000 == 0 => format!("{}ms", nanos / 1_000_000),
        (nanos, _) => format!("{nanos}ns"),
    }
}

#[cfg(test)]
mod tests;
