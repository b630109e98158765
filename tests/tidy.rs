//! House rules that no compiler and no lint knows. Every complaint says where, and what to do about it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Files on the data path do one thing each; beyond this a second one has crept in.
const DATA_PATH_LINES: usize = 500;
const DATA_PATH: [&str; 6] =
    ["src/driver/", "src/mem/", "src/proto/deframe.rs", "src/proto/frame.rs", "src/tls/record.rs", "src/worker/"];

const COLUMNS: usize = 120;

/// Where `unsafe` may be. The last one is an allocator that counts.
const UNSAFE: [&str; 3] = ["src/driver/", "src/mem/", "tests/no_alloc.rs"];

/// What the lower layers may name of the rest of the crate. `worker` joins them; they do not know each other.
const LAYERS: [(&str, &[&str]); 4] = [
    ("driver", &["limits"]),
    // Packets lie there under the keys that they are routed by.
    ("mem", &["limits", "proto"]),
    // What the home page shows is configured.
    ("proto", &["config", "limits"]),
    // Where the certificate comes from is configured; keys are asked for before they are needed.
    ("tls", &["config", "limits", "mem"]),
];

/// What the protocol must not know: bytes and time come in, effects go out.
const IMPURE: [&str; 10] = [
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "std::fs",
    "std::io",
    "std::os",
    "Instant",
    "SystemTime",
    "tokio",
    "rustix",
];

/// Unfinished work is finished or not begun.
const UNFINISHED_CODE: [&str; 5] = ["todo!", "unimplemented!", "dbg!", "#[ignore", "allow(dead_code"];
const UNFINISHED_COMMENT: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];

/// Text that only means something to who was there.
const HEARSAY: [&str; 6] = ["issue #", "issues/", "pull request", "as discussed", "as requested", "see the thread"];

/// Directories of one machine, and the texts in which one of them is meant.
const MACHINE: [&str; 4] = ["home", "root", "work", "Users"];
const MACHINE_MEANT: [(&str, &str); 2] = [
    // derper's own place for the mesh key, and what its root user's places become.
    ("src/config/derper/", "/home/derp/keys/"),
    ("src/config/derper/tests.rs", "/root/"),
];

#[test]
fn unsafe_is_fenced_and_explained() {
    let mut complaints = Complaints::default();
    for file in rust_files() {
        for (at, line) in file.code.iter().enumerate() {
            if !has_word(line, "unsafe") {
                continue;
            }
            if !UNSAFE.iter().any(|allowed| file.path.starts_with(allowed)) {
                complaints.add(&file, at, "unsafe outside of src/driver and src/mem: move what needs it there");
            } else if line.contains("unsafe fn") && !within_trait_impl(&file, at) {
                if !above(&file, at, "# Safety") {
                    complaints.add(&file, at, "an unsafe fn needs `# Safety` in its documentation: what callers owe");
                }
            } else if !line.contains("unsafe fn") && !above(&file, at, "SAFETY: ") {
                complaints.add(&file, at, "unsafe needs `// SAFETY: ` above it: why the contract holds here");
            }
        }
    }
    complaints.assert_none();
}

#[test]
fn the_protocol_does_no_io() {
    let mut complaints = Complaints::default();
    for file in rust_files().iter().filter(|file| file.path.starts_with("src/proto/")) {
        for (at, line) in file.code.iter().enumerate() {
            if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                complaints.add(file, at, &format!("{word} in the protocol: take bytes or time as an argument instead"));
            }
        }
    }
    complaints.assert_none();
}

#[test]
fn layers_do_not_know_each_other() {
    let mut complaints = Complaints::default();
    for file in rust_files() {
        let layer = LAYERS.iter().find(|(layer, _)| file.path.starts_with(&format!("src/{layer}/")));
        let Some((layer, allowed)) = layer else { continue };
        for (at, line) in file.code.iter().enumerate() {
            for named in crate_modules(line) {
                if named != *layer && !allowed.contains(&named) {
                    let what = format!("{layer} names {named}: let worker join them, or take what is needed by value");
                    complaints.add(&file, at, &what);
                }
            }
        }
    }
    complaints.assert_none();
}

#[test]
fn nothing_is_left_unfinished() {
    let mut complaints = Complaints::default();
    for file in rust_files() {
        // Modules that several test programs share are used by each in part.
        let shared = file.path.starts_with("tests/");
        for (at, (code, comment)) in file.code.iter().zip(&file.comments).enumerate() {
            let in_code = UNFINISHED_CODE.iter().find(|mark| code.contains(**mark));
            let in_comment = UNFINISHED_COMMENT.iter().find(|mark| has_word(comment, mark));
            match in_code.or(in_comment) {
                Some(mark) if !(shared && mark.starts_with("allow")) => {
                    complaints.add(&file, at, &format!("{mark}: finish it, or take it out"));
                }
                _ => {}
            }
        }
    }
    complaints.assert_none();
}

#[test]
fn files_on_the_data_path_are_short() {
    let mut complaints = Complaints::default();
    for file in rust_files().iter().filter(|file| DATA_PATH.iter().any(|path| file.path.starts_with(path))) {
        let lines = file.code.len();
        if lines > DATA_PATH_LINES {
            let what = format!("{lines} lines, more than {DATA_PATH_LINES}: which second job did this file take on?");
            complaints.add(file, lines - 1, &what);
        }
    }
    complaints.assert_none();
}

#[test]
fn lines_are_short() {
    let mut complaints = Complaints::default();
    for file in files(&["rs", "py", "sh"]).iter().chain(&[read(".ci/run")]) {
        for (at, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS {
                complaints.add(file, at, &format!("{columns} columns, more than {COLUMNS}: break it"));
            }
        }
    }
    complaints.assert_none();
}

/// But for files of unit tests, whose name says what they are.
#[test]
fn every_source_file_says_what_it_is() {
    let mut complaints = Complaints::default();
    for file in rust_files().iter().filter(|file| file.path.starts_with("src/") && !file.path.ends_with("/tests.rs")) {
        if !file.text.starts_with("//! ") {
            complaints.add(file, 0, "begin with `//! `: what this file is for, in a line or two");
        }
    }
    complaints.assert_none();
}

#[test]
fn every_bound_has_its_reason() {
    let mut complaints = Complaints::default();
    let file = read("src/limits.rs");
    let lines: Vec<&str> = file.text.lines().collect();
    for at in 0..lines.len() {
        if lines[at].starts_with("pub const") && (at == 0 || !lines[at - 1].starts_with("///")) {
            complaints.add(&file, at, "a bound needs `/// ` above it: why this much");
        }
    }
    complaints.assert_none();
}

#[test]
fn text_stands_for_itself() {
    let mut complaints = Complaints::default();
    let tidy = Path::new(file!()).file_name().expect("a file").to_string_lossy();
    for file in files(&["rs", "go", "py", "sh", "md", "toml", "yml"]).iter().chain(&[read(".ci/run")]) {
        if file.path.ends_with(&*tidy) {
            continue;
        }
        for (at, line) in file.text.lines().enumerate() {
            let lower = line.to_lowercase();
            if let Some(words) = HEARSAY.iter().find(|words| lower.contains(**words)) {
                complaints.add(file, at, &format!("{words:?}: say what it is about, here"));
            }
            for name in MACHINE {
                let meant = MACHINE_MEANT.iter().any(|(path, text)| file.path.starts_with(path) && line.contains(text));
                if !meant && begins_path(line, &format!("/{name}/")) {
                    complaints.add(file, at, &format!("/{name}/ is a place on one machine: take it from the caller"));
                }
            }
        }
    }
    complaints.assert_none();
}

/// Files that documents link to are there.
#[test]
fn links_lead_somewhere() {
    let mut complaints = Complaints::default();
    for file in files(&["md"]) {
        let dir = Path::new(&file.path).parent().expect("a file is in a directory");
        for (at, line) in file.text.lines().enumerate() {
            for (_, rest) in line.match_indices("](").map(|(at, _)| line.split_at(at + 2)) {
                let target = rest.split([')', '#']).next().unwrap_or_default();
                if !target.is_empty() && !target.contains("://") && !root().join(dir).join(target).exists() {
                    complaints.add(&file, at, &format!("{target} is not there: correct the link"));
                }
            }
        }
    }
    complaints.assert_none();
}

/// The README's commands are those of the binary, with flags that it knows, and its programs are there.
#[test]
fn commands_of_the_readme_exist() {
    let mut complaints = Complaints::default();
    let file = read("README.md");
    let mut commands = 0;
    for (at, line) in in_code_blocks(&file.text) {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let problem = match &words[..] {
            ["cargo", "run", "--release", "--", args @ ..] | ["derpring", args @ ..] => unknown_flag(args),
            ["cargo", "test" | "build" | "bench", ..] | [] => None,
            [program, ..] if program.contains('/') => {
                (!root().join(program).exists()).then(|| format!("{program} is not there"))
            }
            _ => continue,
        };
        commands += 1;
        if let Some(problem) = problem {
            complaints.add(&file, at, &format!("{problem}: correct the README"));
        }
    }
    assert!(commands > 0, "the README shows how to run the relay");
    complaints.assert_none();
}

/// What is wrong with the command line, by what the binary says about itself.
fn unknown_flag(args: &[&str]) -> Option<String> {
    let words = args.iter().take_while(|arg| !arg.starts_with('-'));
    let words: Vec<&str> = words.copied().filter(|word| word.chars().all(|c| c.is_ascii_lowercase())).collect();
    // derper's flags are Go's: one dash, and a usage that begins each with a space.
    let go = words == ["derper"];
    let help = Command::new(env!("CARGO_BIN_EXE_derpring"))
        .args(&words)
        .arg(if go { "-h" } else { "--help" })
        .output()
        .expect("the binary runs");
    let text = [help.stdout, help.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    if words.iter().any(|word| text.contains(&format!("unrecognized subcommand '{word}'"))) {
        return Some(format!("there is no `derpring {}`", words.join(" ")));
    }
    let flags = args.iter().filter(|arg| arg.starts_with('-')).map(|arg| arg.split('=').next().unwrap_or(arg));
    let known = |flag: &str| text.split([' ', ',', '\n']).any(|word| word == flag);
    flags.into_iter().find(|flag| !known(flag)).map(|flag| format!("`derpring {}` has no {flag}", words.join(" ")))
}

/// Lines of shell blocks, with the lines that a backslash continues put together.
fn in_code_blocks(text: &str) -> Vec<(usize, String)> {
    let mut out: Vec<(usize, String)> = Vec::new();
    let (mut inside, mut continued) = (false, false);
    for (at, line) in text.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside && matches!(language, "sh" | "console" | "bash");
            continue;
        }
        if !inside {
            continue;
        }
        let part = line.trim_end_matches('\\');
        match out.last_mut() {
            Some((_, last)) if continued => last.push_str(part),
            _ => out.push((at, part.to_owned())),
        }
        continued = part.len() < line.len();
    }
    out
}

/// Modules of this crate that a line of code names.
fn crate_modules(line: &str) -> Vec<&str> {
    let mut out = Vec::new();
    for (at, found) in line.match_indices("crate::") {
        let rest = &line[at + found.len()..];
        let list = rest.strip_prefix('{').map_or(rest, |list| list.split('}').next().unwrap_or(list));
        let names: Vec<&str> = if rest.starts_with('{') { list.split(',').collect() } else { vec![list] };
        out.extend(names.iter().map(|name| name.trim().split(|c: char| !is_word(c)).next().unwrap_or_default()));
    }
    out
}

/// Whether the comment that belongs to a line contains `text`: on the lines above it, as far as comments, attributes
/// and the beginning of the same statement reach.
fn above(file: &File, at: usize, text: &str) -> bool {
    let mut statement = 3;
    for at in (0..at).rev() {
        let (code, comment) = (file.code[at].trim(), &file.comments[at]);
        if comment.contains(text) {
            return true;
        }
        let belongs = code.is_empty() && !comment.is_empty() || code.starts_with("#[");
        let begins = statement > 0 && !code.is_empty() && !code.ends_with([';', '}', '{']);
        statement -= usize::from(begins);
        if !belongs && !begins {
            return false;
        }
    }
    false
}

/// A method of a trait has its contract at the trait.
fn within_trait_impl(file: &File, at: usize) -> bool {
    let opening = file.code[..at].iter().rev().find(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    opening.is_some_and(|line| line.contains("impl") && line.contains(" for "))
}

/// Whether `path` begins a path in `line`, and is not a part of a longer one.
fn begins_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(|c: char| is_word(c) || ".-}/*".contains(c)))
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[derive(Default)]
struct Complaints(String);

impl Complaints {
    fn add(&mut self, file: &File, at: usize, what: &str) {
        writeln!(self.0, "{}:{}: {what}", file.path, at + 1).expect("a string takes everything");
    }

    #[track_caller]
    fn assert_none(&self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

/// A file of the repository. Rust comes apart into code, without comments and the contents of strings, and comments,
/// line by line.
struct File {
    path: String,
    text: String,
    code: Vec<String>,
    comments: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files() -> Vec<File> {
    files(&["rs"])
}

fn files(extensions: &[&str]) -> Vec<File> {
    let mut out = Vec::new();
    walk(Path::new(""), extensions, &mut out);
    assert!(!out.is_empty(), "there are files with {extensions:?}");
    out
}

fn walk(dir: &Path, extensions: &[&str], out: &mut Vec<File>) {
    // What is made, not written.
    const SKIP: [&str; 5] = ["target", "corpus", "artifacts", "bin", "node_modules"];
    let entries = fs::read_dir(root().join(dir)).expect("a directory of the repository");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("its entry").file_name()).collect();
    names.sort();
    for name in names {
        let path = dir.join(&name);
        let name = name.to_string_lossy();
        if name.starts_with('.') || SKIP.contains(&&*name) {
            continue;
        }
        if root().join(&path).is_dir() {
            walk(&path, extensions, out);
        } else if path.extension().is_some_and(|e| extensions.iter().any(|known| e == *known)) {
            out.push(read(&path.to_string_lossy()));
        }
    }
}

fn read(path: &str) -> File {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let (code, comments) = if path.ends_with(".rs") { take_apart(&text) } else { Default::default() };
    let lines = |part: String| part.lines().map(str::to_owned).collect();
    File { path: path.to_owned(), code: lines(code), comments: lines(comments), text }
}

/// Code and comments of a Rust file, each with the line breaks of the whole. Strings are empty in the code.
fn take_apart(text: &str) -> (String, String) {
    let (mut code, mut comments) = (String::new(), String::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let word_before = code.ends_with(is_word);
        let raw = rest.trim_start_matches(['b', 'c']).strip_prefix('r').map(|r| (r, r.trim_start_matches('#')));
        let len = if rest.starts_with("//") {
            let len = rest.find('\n').unwrap_or(rest.len());
            comments.push_str(&rest[..len]);
            len
        } else if rest.starts_with("/*") {
            let len = block_comment(rest);
            comments.push_str(&rest[..len]);
            code.extend(rest[..len].matches('\n'));
            len
        } else if let (false, Some((hashes, quoted))) = (word_before, raw.filter(|(_, quoted)| quoted.starts_with('"')))
        {
            let end = format!("\"{}", "#".repeat(hashes.len() - quoted.len()));
            let begin = rest.len() - quoted.len() + 1;
            let len = rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len());
            blank(&rest[..len], &mut code, &mut comments);
            len
        } else if c == '"' {
            let len = quoted(rest, '"');
            blank(&rest[..len], &mut code, &mut comments);
            len
        } else if c == '\'' && (rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'')) {
            let len = quoted(rest, '\'');
            blank(&rest[..len], &mut code, &mut comments);
            len
        } else {
            code.push(c);
            if c == '\n' {
                comments.push(c);
            }
            c.len_utf8()
        };
        rest = &rest[len..];
    }
    (code, comments)
}

/// Length of the literal at the front.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of the comment at the front; they nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn blank(literal: &str, code: &mut String, comments: &mut String) {
    code.push_str("\"\"");
    for part in [code, comments] {
        part.extend(literal.matches('\n'));
    }
}

#[test]
fn code_and_comments_come_apart() {
    let text = "let a = \"// no\\\" unsafe\"; // yes\nr#\"dbg!\"#; 'x'; '\"'; fn f<'a>() /* TODO\n/* */ */ {}";
    let (code, comments) = take_apart(text);
    assert_eq!(code, "let a = \"\"; \n\"\"; \"\"; \"\"; fn f<'a>() \n {}");
    assert_eq!(comments, "// yes\n/* TODO\n/* */ */");
    assert_eq!(crate_modules("use crate::{tls::Flow, proto}; crate::mem::x"), ["tls", "proto", "mem"]);
    assert!(has_word("an unsafe fn", "unsafe") && !has_word("unsafe_code", "unsafe"));
}
