//! Command lines in the syntax of Go's flag package.

use super::go_values::{GoDuration, parse_bool, parse_duration, parse_float, parse_int};

/// One flag that may be given.
#[derive(Clone, Debug)]
pub(super) struct Def {
    pub name: &'static str,
    pub kind: Kind,
    /// In the flag's own text form.
    pub default: String,
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int,
    Float,
    Text,
    Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Duration(GoDuration),
}

/// Why a command line cannot be read. [`FlagError::Help`] is what Go calls an error too: the flag asks for the usage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    #[error("help requested")]
    Help,
    #[error("flag provided but not defined: -{0}")]
    NotDefined(String),
    #[error("flag needs an argument: -{0}")]
    NeedsArgument(String),
    #[error("bad flag syntax: {0}; write -name, -name=value or -name value")]
    BadSyntax(String),
    #[error("invalid value {value:?} for flag -{name}: {expected}")]
    BadValue { name: String, value: String, expected: &'static str },
    /// Go would stop here and ignore everything behind it.
    #[error("unexpected argument {0:?}: flags begin with -, and a boolean takes its value only as -name=value")]
    Positional(String),
}

/// The value of every defined flag.
#[derive(Debug)]
pub(super) struct Flags {
    values: Vec<(&'static str, Value)>,
}

/// Reads `args` by `defs`.
pub(super) fn parse(defs: &[Def], args: &[String]) -> Result<Flags, FlagError> {
    let mut values: Vec<_> = defs.iter().map(|def| (def.name, def.default_value())).collect();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
            return Err(FlagError::Positional(arg.clone()));
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() {
            // `--` ends the flags.
            return rest.next().map_or(Ok(Flags { values }), |arg| Err(FlagError::Positional(arg.clone())));
        }
        if body.starts_with(['-', '=']) {
            return Err(FlagError::BadSyntax(arg.clone()));
        }
        let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
        let Some(at) = defs.iter().position(|def| def.name == name) else {
            let help = matches!(name, "h" | "help");
            return Err(if help { FlagError::Help } else { FlagError::NotDefined(name.to_owned()) });
        };
        let kind = defs[at].kind;
        let text = match (value, kind) {
            (Some(text), _) => text,
            (None, Kind::Bool) => "true",
            (None, _) => rest.next().ok_or_else(|| FlagError::NeedsArgument(name.to_owned()))?,
        };
        values[at].1 = kind.parse(text).ok_or_else(|| FlagError::BadValue {
            name: name.to_owned(),
            value: text.to_owned(),
            expected: kind.expected(),
        })?;
    }
    Ok(Flags { values })
}

/// The usage text in Go's form, with a last newline.
pub(super) fn usage(program: &str, defs: &[Def]) -> String {
    let mut sorted: Vec<&Def> = defs.iter().collect();
    sorted.sort_by_key(|def| def.name);
    let mut out = format!("Usage of {program}:\n");
    for def in sorted {
        let default = match (def.kind, def.default.as_str()) {
            (_, "" | "false" | "0") => String::new(),
            (Kind::Text, text) => format!(" (default {text:?})"),
            (_, text) => format!(" (default {text})"),
        };
        out += &format!("  -{}{}\n    \t{}{default}\n", def.name, def.kind.placeholder(), def.help);
    }
    out
}

impl Def {
    pub(super) fn default_value(&self) -> Value {
        self.kind.parse(&self.default).expect("a default is written by us and parses")
    }
}

impl Kind {
    fn parse(self, text: &str) -> Option<Value> {
        match self {
            Self::Bool => parse_bool(text).map(Value::Bool),
            Self::Int => parse_int(text).map(Value::Int),
            Self::Float => parse_float(text).map(Value::Float),
            Self::Text => Some(Value::Text(text.to_owned())),
            Self::Duration => parse_duration(text).map(Value::Duration),
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Bool => "write true or false",
            Self::Int => "write a whole number",
            Self::Float => "write a number",
            Self::Text => "write text",
            Self::Duration => "write a duration such as 10m, 2s or 0",
        }
    }

    fn placeholder(self) -> &'static str {
        match self {
            Self::Bool => "",
            Self::Int => " int",
            Self::Float => " float",
            Self::Text => " string",
            Self::Duration => " duration",
        }
    }
}

/// # Panics
/// Every getter panics for a flag that is not defined with that kind; a test reads each of them once.
impl Flags {
    pub(super) fn bool(&self, name: &str) -> bool {
        let Value::Bool(value) = self.value(name) else { panic!("-{name} is no boolean") };
        *value
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        let Value::Int(value) = self.value(name) else { panic!("-{name} is no integer") };
        *value
    }

    pub(super) fn float(&self, name: &str) -> f64 {
        let Value::Float(value) = self.value(name) else { panic!("-{name} is no number") };
        *value
    }

    pub(super) fn text(&self, name: &str) -> &str {
        let Value::Text(value) = self.value(name) else { panic!("-{name} is no text") };
        value
    }

    pub(super) fn duration(&self, name: &str) -> GoDuration {
        let Value::Duration(value) = self.value(name) else { panic!("-{name} is no duration") };
        *value
    }

    pub(super) fn value(&self, name: &str) -> &Value {
        &self.values.iter().find(|(defined, _)| *defined == name).expect("a defined flag").1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_flag_is_read() {
        let flags = parsed(&["-a", "x", "--b=y", "-on", "-n=-3", "-d", "1m", "-off=false", "--"]).unwrap();
        assert_eq!((flags.text("a"), flags.text("b")), ("x", "y"));
        assert_eq!((flags.bool("on"), flags.bool("off")), (true, false));
        assert_eq!((flags.int("n"), flags.duration("d")), (-3, GoDuration(60_000_000_000)));
        assert_eq!(flags.value("f"), &Value::Float(f64::INFINITY));
        assert_eq!(parsed(&["-a="]).unwrap().text("a"), "");
        assert_eq!(parsed(&["-a", "-on"]).unwrap().text("a"), "-on", "the next argument is the value, whatever it is");
        assert_eq!(parsed(&["-a=1", "-a=2=3"]).unwrap().text("a"), "2=3", "the last one counts");
    }

    #[test]
    fn errors_are_gos() {
        for (args, message) in [
            (&["-x"][..], "flag provided but not defined: -x"),
            (&["-a"], "flag needs an argument: -a"),
            (&["---a"], "bad flag syntax: ---a"),
            (&["-=a"], "bad flag syntax: -=a"),
            (&["-n", "many"], "invalid value \"many\" for flag -n"),
            (&["-on=maybe"], "invalid value \"maybe\" for flag -on"),
            (&["-on", "true"], "unexpected argument \"true\""),
            (&["-"], "unexpected argument \"-\""),
            (&["--", "a"], "unexpected argument \"a\""),
        ] {
            let text = parsed(args).unwrap_err().to_string();
            assert!(text.starts_with(message), "{args:?}: {text}");
        }
        for help in ["-h", "--help", "-help"] {
            assert_eq!(parsed(&[help]).unwrap_err(), FlagError::Help);
        }
    }

    #[test]
    fn the_usage_lists_what_there_is() {
        let text = usage("derper", &defs());
        assert!(text.starts_with("Usage of derper:\n  -a string\n    \thelp of a\n"), "{text}");
        assert!(text.contains("  -b string\n    \thelp (default \"z\")\n"), "{text}");
        assert!(text.contains("  -d duration\n    \thelp (default 2s)\n"), "{text}");
    }

    fn parsed(args: &[&str]) -> Result<Flags, FlagError> {
        parse(&defs(), &args.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn defs() -> Vec<Def> {
        let def = |name, kind, default: &str, help| Def { name, kind, default: default.to_owned(), help };
        vec![
            def("d", Kind::Duration, "2s", "help"),
            def("b", Kind::Text, "z", "help"),
            def("a", Kind::Text, "", "help of a"),
            def("on", Kind::Bool, "false", "help"),
            def("off", Kind::Bool, "true", "help"),
            def("n", Kind::Int, "1", "help"),
            def("f", Kind::Float, "+Inf", "help"),
        ]
    }
}
