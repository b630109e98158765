//! The configuration file: TOML, every key known, every value of its kind, every mistake with its line.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::settings::{self, Kind, Setting};
use crate::limits;

/// What the file says about one setting.
#[derive(Debug)]
pub(super) struct Given {
    pub setting: &'static Setting,
    /// As they would stand on a command line. An empty list is one empty value.
    pub values: Vec<String>,
    pub line: usize,
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or the first line in it that cannot be used.
pub(super) fn read(path: &Path) -> Result<Vec<Given>, ConfigError> {
    let unreadable = |problem: String| ConfigError::value("--config", path.to_string_lossy(), problem);
    // Whatever the name leads to: memory for it is bounded.
    let file = File::open(path).map_err(|e| unreadable(format!("cannot be read: {e}")))?;
    let mut text = String::new();
    let read = file.take(limits::CONFIG_FILE_MAX + 1).read_to_string(&mut text);
    read.map_err(|e| unreadable(format!("cannot be read: {e}")))?;
    if text.len() as u64 > limits::CONFIG_FILE_MAX {
        return Err(unreadable(format!("is larger than {} bytes", limits::CONFIG_FILE_MAX)));
    }
    parse(path, &text)
}

/// Reads the text of a file that lies at `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Given>, ConfigError> {
    let reader = Reader { path, text };
    let root = DeTable::parse(text).map_err(|e| {
        let at = e.span().map_or(text.len(), |span| span.start);
        reader.error(at, e.message().lines().collect::<Vec<_>>().join("; "))
    })?;
    let mut all = Vec::new();
    for (key, value) in root.get_ref() {
        let (name, at) = (key.get_ref(), key.span().start);
        match value.get_ref() {
            DeValue::Table(table) if settings::TABLES.contains(&&**name) => all.extend(
                table
                    .iter()
                    .map(|(key, value)| reader.given(&format!("{name}.{}", key.get_ref()), key.span().start, value)),
            ),
            DeValue::Table(table) => all.push(Err(reader.no_table(name, at, table))),
            _ => all.push(reader.given(name, at, value)),
        }
    }
    // By lines: the first mistake is the one that is told.
    all.sort_by_key(|given| match given {
        Ok(given) => given.line,
        Err(ConfigError::File { line, .. }) => *line,
        Err(_) => 0,
    });
    all.into_iter().collect()
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn given(&self, name: &str, at: usize, value: &Spanned<DeValue<'_>>) -> Result<Given, ConfigError> {
        let setting = settings::all().iter().find(|s| s.key.as_ref().is_some_and(|key| key.to_string() == name));
        let Some(setting) = setting else { return Err(self.unknown(name, at, nearest(name))) };
        let values = texts(setting.kind, value.get_ref())
            .ok_or_else(|| self.error(value.span().start, format!("{name}: {}", setting.kind.wanted())))?;
        Ok(Given { setting, values, line: self.line(at) })
    }

    fn no_table(&self, name: &str, at: usize, table: &DeTable<'_>) -> ConfigError {
        let within = table.keys().next().map(|key| format!("{name}.{}", key.get_ref()));
        let near = within.as_deref().and_then(nearest).or_else(|| nearest(name));
        self.unknown(&format!("[{name}]"), at, near)
    }

    fn unknown(&self, name: &str, at: usize, near: Option<String>) -> ConfigError {
        let instead = near.map_or_else(
            || "`derpring serve --help` lists all settings".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        self.error(at, format!("{name} is no setting; {instead}"))
    }

    fn error(&self, at: usize, problem: impl Into<String>) -> ConfigError {
        ConfigError::File { path: self.path.to_owned(), line: self.line(at), problem: problem.into() }
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|b| *b == b'\n').count()
    }
}

/// `None`: not of that kind.
fn texts(kind: Kind, value: &DeValue<'_>) -> Option<Vec<String>> {
    let one = match (kind, value) {
        (Kind::Switch, DeValue::Boolean(on)) => on.to_string(),
        (Kind::Number | Kind::Size, DeValue::Integer(n)) => {
            i128::from_str_radix(n.as_str(), n.radix()).ok()?.to_string()
        }
        (Kind::Number, DeValue::Float(n)) => n.as_str().to_owned(),
        (Kind::Text | Kind::Size | Kind::List, DeValue::String(text)) => text.to_string(),
        (Kind::List, DeValue::Array(values)) => {
            let texts: Option<Vec<_>> = values.iter().map(|v| v.get_ref().as_str().map(str::to_owned)).collect();
            return texts.map(|texts| if texts.is_empty() { vec![String::new()] } else { texts });
        }
        _ => return None,
    };
    Some(vec![one])
}

/// The key that was probably meant: nearly the same letters, a flag's form, or the right name outside of its table.
fn nearest(name: &str) -> Option<String> {
    let keys = settings::all().iter().filter_map(|setting| setting.key.as_ref()).map(ToString::to_string);
    let keys: Vec<String> = keys.collect();
    if let Some(key) = keys.iter().find(|key| key.split_once('.').is_some_and(|(_, last)| last == name)) {
        return Some(key.clone());
    }
    super::nearest(&plain(name), keys.iter().map(|key| (plain(key), key.clone())))
}

fn plain(name: &str) -> String {
    name.replace(['.', '-'], "_").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<(String, Vec<String>, usize)>, String> {
        let given = parse(Path::new("relay.toml"), text).map_err(|e| e.to_string())?;
        Ok(given.into_iter().map(|given| (given.setting.flag.clone(), given.values, given.line)).collect())
    }

    #[test]
    fn values_become_what_a_command_line_would_say() {
        let text = "listen = [\":443\", \"unix:/a\"]\nworkers = 0x10\nhostname = \"a.example\"\n\n[stun]\nany = true\n\
                    listen = []\n[accept]\nlimit = 2.5\n[queue]\nbytes = 1_048_576\n[log]\nfilter = 'debug'\n";
        let wanted = [
            ("--listen", vec![":443", "unix:/a"], 1),
            ("--workers", vec!["16"], 2),
            ("--hostname", vec!["a.example"], 3),
            ("--stun-any", vec!["true"], 6),
            ("--stun-listen", vec![""], 7),
            ("--accept-limit", vec!["2.5"], 9),
            ("--queue-bytes", vec!["1048576"], 11),
            ("--log", vec!["debug"], 13),
        ];
        let wanted: Vec<_> = wanted
            .into_iter()
            .map(|(flag, values, line)| (flag.to_owned(), values.into_iter().map(str::to_owned).collect(), line))
            .collect();
        assert_eq!(read_text(text).unwrap(), wanted);
        assert_eq!(read_text("queue.bytes = \"4MiB\"").unwrap()[0].1, ["4MiB"]);
        assert_eq!(read_text("").unwrap(), []);
    }

    #[test]
    fn a_mistake_has_its_line_and_a_way_out() {
        for (text, message) in [
            ("workers = \"3\"", "relay.toml:1: workers: write a number"),
            ("\n\nlisten = 443", "relay.toml:3: listen: write a list"),
            ("listen = [443]", "relay.toml:1: listen: write a list"),
            ("[stun]\nany = \"yes\"", "relay.toml:2: stun.any: write true or false"),
            ("[queue]\nbytes = 1.5", "relay.toml:2: queue.bytes: write a number of bytes"),
            ("home = 1", "relay.toml:1: home: write text"),
            ("workers = [1]", "relay.toml:1: workers: write a number"),
            ("queue = 3", "relay.toml:1: queue is no setting"),
            ("workres = 3", "relay.toml:1: workres is no setting; did you mean workers?"),
            ("max-clients = 3", "relay.toml:1: max-clients is no setting; did you mean max_clients?"),
            ("queue_packets = 3", "relay.toml:1: queue_packets is no setting; did you mean queue.packets?"),
            ("token_file = \"/t\"", "relay.toml:1: token_file is no setting; did you mean admin.token_file?"),
            ("[queue]\npackest = 3", "relay.toml:2: queue.packest is no setting; did you mean queue.packets?"),
            ("[Admin]\nlisten = []", "relay.toml:1: [Admin] is no setting; did you mean admin.listen?"),
            ("[tls]\nmode = \"none\"", "relay.toml:1: [tls] is no setting; "),
            ("[a.b]\nc = 1", "relay.toml:1: [a] is no setting; `derpring serve --help` lists"),
            ("takeover = true", "relay.toml:1: takeover is no setting"),
            ("dev = true", "relay.toml:1: dev is no setting"),
            ("config = \"x\"", "relay.toml:1: config is no setting"),
            ("workers = 1\nworkers = 2", "relay.toml:2: duplicate key"),
            ("workers = ", "relay.toml:1: "),
            ("workers = 1\nlisten = [\n", "relay.toml:"),
            ("zzz = 1\n[queue]\npackets = 'x'", "relay.toml:1: zzz"),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.starts_with(message), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn what_is_no_file_of_ours_is_refused() {
        for (path, message) in [
            ("/nowhere/relay.toml", "--config \"/nowhere/relay.toml\": cannot be read: "),
            ("/", "--config \"/\": cannot be read: "),
            ("/dev/zero", "--config \"/dev/zero\": is larger than "),
        ] {
            let error = read(Path::new(path)).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("binary");
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("valid UTF-8"));
    }
}
