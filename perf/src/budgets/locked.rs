//! Instructions that lock a cache line, in the code of functions. How often they run is not counted: on the way of a
//! packet from a session to another of the same worker there are to be none at all.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::Error;

/// Locked instructions in functions whose names begin with one of these. A name that no function has is an error:
/// else code that moved away would count as clean.
pub fn in_functions(program: &Path, names: &[&str]) -> Result<f64, Error> {
    let mut objdump = Command::new("objdump")
        .args(["--disassemble", "--demangle", "--no-show-raw-insn"])
        .arg(program)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start { program: "objdump".into(), source, advice: "install binutils" })?;
    let mut counter = Counter::new(names);
    let lines = objdump.stdout.take().map(BufReader::new).into_iter().flat_map(|out| out.split(b'\n'));
    for line in lines {
        counter.line(&String::from_utf8_lossy(&line.map_err(Error::file(program))?));
    }
    let status = objdump.wait().map_err(Error::file(program))?;
    if !status.success() {
        let stderr = "see above".to_owned();
        return Err(Error::Command { what: "objdump".into(), status: status.to_string(), stderr });
    }
    counter.result()
}

struct Counter<'a> {
    /// And how many functions have it.
    names: Vec<(&'a str, usize)>,
    inside: bool,
    locked: usize,
}

impl<'a> Counter<'a> {
    fn new(names: &[&'a str]) -> Self {
        Self { names: names.iter().map(|name| (*name, 0)).collect(), inside: false, locked: 0 }
    }

    fn line(&mut self, line: &str) {
        if let Some(function) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")).map(|(_, name)| name) {
            // Methods of traits are written as <Type as Trait>::name.
            let function = function.trim_start_matches('<');
            self.inside = false;
            for (_, functions) in self.names.iter_mut().filter(|(name, _)| function.starts_with(name)) {
                *functions += 1;
                self.inside = true;
            }
        } else if self.inside && is_locked(line) {
            self.locked += 1;
        }
    }

    fn result(&self) -> Result<f64, Error> {
        match self.names.iter().find(|(_, functions)| *functions == 0) {
            Some((name, _)) => Err(Error::Config(format!(
                "no function's name begins with {name}: it was renamed or is inlined; look for it with \
                 `nm --demangle`, and name in perf/budgets.toml where its code is now"
            ))),
            None => Ok(self.locked as f64),
        }
    }
}

/// `lock` as a prefix, an exchange with memory (which locks without it), or a full fence.
fn is_locked(line: &str) -> bool {
    let Some((_, instruction)) = line.split_once(":\t") else {
        return false;
    };
    let mut words = instruction.split_whitespace();
    match words.next() {
        Some("lock" | "mfence") => true,
        Some(name) if name.starts_with("xchg") => words.next().is_some_and(|operands| operands.contains('(')),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
0000000000001000 <relay::send::<impl relay::Core>::commit>:
    1000:\tpush   %rbx
    1001:\tlock decq (%rax)
    1005:\txchg   %ax,%ax
    1006:\txchg   %al,(%rbx)

0000000000002000 <<relay::driver::Epoll as relay::Driver>::turn>:
    2000:\tmfence
    2003:\tlock orl $0x0,-0x40(%rsp)

0000000000003000 <relay::sender::other>:
    3000:\tlock incq (%rax)
";

    fn count(names: &[&str]) -> Result<f64, Error> {
        let mut counter = Counter::new(names);
        TEXT.lines().for_each(|line| counter.line(line));
        counter.result()
    }

    #[test]
    fn only_in_functions_of_these_names() {
        assert_eq!(count(&["relay::send::"]).unwrap(), 2.0);
        assert_eq!(count(&["relay::driver::Epoll"]).unwrap(), 2.0);
        assert_eq!(count(&["relay::send"]).unwrap(), 3.0);
        assert_eq!(count(&["relay::"]).unwrap(), 5.0);
    }

    #[test]
    fn a_name_that_is_gone_is_an_error() {
        let err = count(&["relay::send::", "relay::gone"]).unwrap_err().to_string();
        assert!(err.contains("begins with relay::gone"), "{err}");
    }
}
