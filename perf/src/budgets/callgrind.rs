//! What the workers' turns execute per packet, counted by callgrind, and what they allocate.
//!
//! valgrind shows programs a processor without AVX-512: the figures are the same on all that have AVX2 and AES
//! instructions, and TLS costs more instructions under it than on a newer one.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::error::Error;
use crate::running;

/// What derpring-line prints.
#[derive(Deserialize)]
struct Counted {
    packets: u64,
    allocations: u64,
}

pub fn instructions_per_packet(line: &Path, flags: &[&str], work: &Path) -> Result<f64, Error> {
    let out = work.join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured_turns*"]);
    command.arg(format!("--callgrind-out-file={}", out.display())).arg(line).arg("packets").args(flags);
    let output = running::run("valgrind", &mut command, "install valgrind")?;
    let counted = parse(&output.stdout)?;
    let text = std::fs::read_to_string(&out).map_err(Error::file(&out))?;
    let total = total(&text).ok_or_else(|| Error::Output("callgrind's output", "there is no total in it".into()))?;
    Ok(total as f64 / counted.packets as f64)
}

pub fn allocations_per_packet(line: &Path, flags: &[&str]) -> Result<f64, Error> {
    let output = running::run("derpring-line", Command::new(line).arg("packets").args(flags), "build it")?;
    let counted = parse(&output.stdout)?;
    Ok(counted.allocations as f64 / counted.packets as f64)
}

fn parse(stdout: &[u8]) -> Result<Counted, Error> {
    serde_json::from_slice(stdout).map_err(|err| Error::Output("what derpring-line printed", err.to_string()))
}

/// Nothing collected is an error: the function that is looked at has another name then.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("totals: "))?;
    line.trim().parse().ok().filter(|total| *total > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found_and_zero_is_none() {
        assert_eq!(total("events: Ir\nfn=(1)\n1 5\ntotals: 26292850\n"), Some(26_292_850));
        assert_eq!(total("events: Ir\ntotals: 0\n"), None);
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn what_the_line_prints_is_understood() {
        let counted = parse(br#"{"packets":6400,"allocations":1,"allocated_bytes":9}"#).unwrap();
        assert_eq!((counted.packets, counted.allocations), (6400, 1));
        assert!(parse(b"").is_err());
    }
}
