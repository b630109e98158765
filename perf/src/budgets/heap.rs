//! What a session holds that does nothing: the heap in use at the end of two programs, one with twice the sessions.
//!
//! valgrind sees what C code asks for too. At these numbers tables that grow by doubling are as empty as they get.
//! The simulated socket is counted along.

use std::path::Path;
use std::process::Command;

use crate::error::Error;
use crate::running;

const FEWER: u64 = 64;
const MORE: u64 = 128;

pub fn bytes_per_session(line: &Path, flags: &[&str]) -> Result<f64, Error> {
    let (more, fewer) = (in_use(line, flags, MORE)?, in_use(line, flags, FEWER)?);
    Ok((more as f64 - fewer as f64) / (MORE - FEWER) as f64)
}

fn in_use(line: &Path, flags: &[&str], sessions: u64) -> Result<u64, Error> {
    let mut command = Command::new("valgrind");
    command.arg("--leak-check=no").arg(line).args(["idle", "--sessions", &sessions.to_string()]).args(flags);
    let output = running::run("valgrind", &mut command, "install valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    in_use_at_exit(&text).ok_or_else(|| Error::Output("valgrind's summary", "it has no heap in use at exit".into()))
}

fn in_use_at_exit(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("in use at exit: ")?;
    rest.split(' ').next()?.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_understood() {
        let text = "==1== HEAP SUMMARY:\n==1==     in use at exit: 1,234,567 bytes in 30 blocks\n==1==   total";
        assert_eq!(in_use_at_exit(text), Some(1_234_567));
        assert_eq!(in_use_at_exit("==1== nothing"), None);
    }
}
