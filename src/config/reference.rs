//! The documents that list every setting, made of the settings themselves: `docs/CONFIGURATION.md` and
//! `deploy/examples/derpring.toml`.

use std::ffi::OsString;
use std::fmt::Write as _;

use super::changes::LIVE;
use super::settings::{self, Kind, Setting};
use super::sources::Sources;
use super::write::Written;

/// What the example says because no relay can do without.
const NEEDED: [(&str, &str); 2] = [("hostname", "[\"derp.example.com\"]"), ("cert_mode", "\"acme\"")];

/// An example for each setting that has no default, or one that depends on the machine.
const SUCH_AS: [(&str, &str); 15] = [
    ("accept_burst", "500"),
    ("accept_limit", "100"),
    ("acme_ca_file", "\"/etc/derpring/acme-root.pem\""),
    ("acme_eab_key_file", "\"/etc/derpring/eab.key\""),
    ("acme_eab_kid", "\"kid-1\""),
    ("acme_email", "\"admin@example.com\""),
    ("admin_token_file", "\"/etc/derpring/token\""),
    ("debug_key_file", "\"/etc/derpring/debug.key\""),
    ("edges", "2"),
    ("log", "\"info,derpring::edge=debug\""),
    ("max_clients", "10000"),
    ("max_clients_per_ip", "1000"),
    ("mesh_key_file", "\"/etc/derpring/mesh.key\""),
    ("takeover_socket", "\"/run/derpring/takeover\""),
    ("workers", "8"),
];

/// The reference of all settings.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Settings\n\n\
         <!-- Made from the flags of `derpring serve`: `DERPRING_WRITE_DOCS=1 cargo test --test config_file`. -->\n\n\
         Each setting has three names: a flag of `derpring serve`, a variable of the environment, and a key of the \
         file that `--config` names. A flag counts before the environment, that before the file, and that before the \
         default.\n[OPERATIONS.md](OPERATIONS.md#configuration-and-reload) says how to use them, \
         [deploy/examples](../deploy/examples) has files to start from.\n\n\
         *Reload* says whether a relay that runs takes a change over; the others need a restart. Certificates in files \
         are read again too.\n\n\
         | Flag | Variable | Key | Default | Reload | What it says |\n|---|---|---|---|---|---|\n",
    );
    for setting in settings::all() {
        let key = setting.key.as_ref().map(ToString::to_string);
        let live = key.as_ref().map(|key| if LIVE.contains(&&**key) { "yes" } else { "no" });
        let code = |text: Option<String>| text.map_or_else(String::new, |text| format!("`{text}`"));
        writeln!(
            out,
            "| `{}` | {} | {} | {} | {} | {} |",
            setting.flag,
            code(setting.variable.clone()),
            code(key),
            code(default(setting)),
            live.unwrap_or_default(),
            setting.help
        )
        .expect("a string takes everything");
    }
    out
}

/// A file with every setting: what it says is what counts without it, but for what no relay can do without.
pub fn example() -> String {
    let mut out = String::from(
        "# Configuration of a relay: derpring serve --config FILE\n\
         #\n\
         # Every setting is here. A line such as `#name = value` says what counts without it; \"such as\" shows the\n\
         # form of a setting that has no default. `--check-config` says whether a file can be used.\n",
    );
    section(&mut out, None);
    for table in settings::TABLES {
        write!(out, "\n[{table}]\n").expect("a string takes everything");
        section(&mut out, Some(table));
    }
    out
}

fn section(out: &mut String, table: Option<&str>) {
    for setting in settings::all() {
        let Some(key) = setting.key.as_ref().filter(|key| key.table == table) else { continue };
        out.push('\n');
        for line in wrapped(&setting.help) {
            writeln!(out, "# {line}").expect("a string takes everything");
        }
        let name = &key.name;
        let line = match (find(&NEEDED, setting), default(setting), find(&SUCH_AS, setting)) {
            (Some(value), ..) => format!("{name} = {value}"),
            (None, Some(value), _) => format!("#{name} = {value}"),
            (None, None, Some(value)) => format!("# such as: {name} = {value}"),
            (None, None, None) => unreachable!("a test knows that there is a default or an example"),
        };
        writeln!(out, "{line}").expect("a string takes everything");
    }
}

fn find(list: &[(&str, &'static str)], setting: &Setting) -> Option<&'static str> {
    list.iter().find(|(id, _)| *id == setting.id).map(|(_, value)| *value)
}

/// As the file says it; `None`: there is none.
fn default(setting: &Setting) -> Option<String> {
    let minimal = ["--cert-mode=acme", "--hostname=derp.example.com"].map(OsString::from);
    let loaded = Sources::new(minimal, []).load().expect("the least that a relay needs");
    let written = Written::of(&loaded);
    let entry = written.entries.iter().find(|(known, _)| known.id == setting.id);
    let needed = find(&NEEDED, setting).is_some();
    match (entry, setting.kind) {
        _ if needed || setting.key.is_none() => None,
        (Some((_, value)), _) => Some(value.to_string()),
        // Only written beside another.
        (None, Kind::Switch) => Some("false".to_owned()),
        (None, Kind::List) => Some("[]".to_owned()),
        (None, _) => None,
    }
}

fn wrapped(text: &str) -> Vec<String> {
    const WIDTH: usize = 100;
    let mut out = vec![String::new()];
    for word in text.split_whitespace() {
        let line = out.last_mut().expect("at least one line");
        if line.len() + word.len() >= WIDTH {
            out.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::file;

    #[test]
    fn every_setting_has_a_default_or_an_example_and_not_both() {
        for setting in settings::all().iter().filter(|setting| setting.key.is_some()) {
            let places =
                [find(&NEEDED, setting).is_some(), default(setting).is_some(), find(&SUCH_AS, setting).is_some()];
            let places = places.iter().filter(|there| **there).count();
            assert_eq!(places, 1, "{}: give it one of NEEDED, a default, and SUCH_AS", setting.flag);
        }
    }

    /// What the example says without being asked is nothing but the defaults.
    #[test]
    fn the_example_is_the_defaults() {
        let told = example().replace("\n#", "\n# ");
        let all: String = example()
            .lines()
            .map(|line| match line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')) {
                Some(setting) => format!("{setting}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        let dir = tempfile::TempDir::new().unwrap();
        let load = |text: &str| {
            let file = dir.path().join("relay.toml");
            std::fs::write(&file, text).unwrap();
            let args = ["--config".into(), file.into_os_string()];
            Sources::new(args, []).load().unwrap().config
        };
        assert!(all.lines().count() == told.lines().count() && all.contains("\npackets = 512\n"), "{all}");
        assert_eq!(load(&all), load(&told));
    }

    #[test]
    fn examples_are_of_the_right_kind() {
        for (id, value) in SUCH_AS.iter().chain(&NEEDED) {
            let key = settings::by_id(id).key.as_ref().unwrap();
            let given = file::parse(Path::new("x"), &format!("{key} = {value}")).unwrap();
            assert_eq!(given[0].setting.id, *id);
        }
    }
}
