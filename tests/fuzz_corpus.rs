//! The fuzz targets on stable Rust: every input of the corpus, and mutations of them for a few seconds.
//!
//! A failure prints the input; put it into `fuzz/corpus/<target>/` together with the fix. `DERPRING_FUZZ_SECONDS=n`
//! mutates for so long per target, `DERPRING_FUZZ_SEED=n` begins elsewhere.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use derpring::driver::sim::Random;
use targets::{TARGETS, Target};

/// Inputs are short, as in the corpus: what is long takes longer and finds no more.
const INPUT_MAX: usize = 8 * 1024;

#[test]
fn every_input_of_the_corpus_passes() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(corpus.len() > 3, "fuzz/corpus/{name} is all but empty");
        for (file, input) in corpus {
            run(&format!("fuzz/corpus/{name}/{file}"), target, &input);
        }
    }
}

#[test]
fn mutations_of_the_corpus_pass() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(number("DERPRING_FUZZ_SECONDS").unwrap_or(1));
    let seed = number("DERPRING_FUZZ_SEED").unwrap_or(1);
    for (name, target) in TARGETS {
        let corpus: Vec<Vec<u8>> = corpus(name).into_iter().map(|(_, input)| input).collect();
        let mut random = Random::new(seed);
        let (begin, mut runs) = (Instant::now(), 0_u64);
        while begin.elapsed() < time {
            let input = mutated(&corpus, &mut random);
            run(&format!("{name}, seed {seed}, run {runs}"), target, &input);
            runs += 1;
        }
        println!("{name}: {runs} mutations");
    }
}

fn run(what: &str, target: Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{what} fails; its input in hex:\n{hex}");
    }
}

/// Name and content, in the order of the names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| fs::read(path).expect("a file of the corpus");
    files.iter().map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), read(path))).collect()
}

/// One input of the corpus with a few changes, some of them taken from another one.
fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const INTERESTING: [u8; 12] = [0, 1, 2, 4, 5, 0x10, 0x16, 0x17, 0x20, 0x7f, 0x80, 0xff];
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let len = random.below(24).min(input.len() - at);
        match random.below(8) {
            0 => drop(input.drain(at..at + len)),
            1 => input.truncate(at),
            2 => {
                let more = input[at..at + len].repeat(1 + random.below(40));
                input.splice(at..at, more);
            }
            3 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let to = from + random.below(other.len() - from + 1);
                input.splice(at..at, other[from..to].iter().copied());
            }
            4 => {
                let more: Vec<u8> = (0..random.below(16)).map(|_| random.next() as u8).collect();
                input.splice(at..at, more);
            }
            5 if at < input.len() => input[at] = INTERESTING[random.below(INTERESTING.len())],
            6 if at < input.len() => input[at] = random.next() as u8,
            _ if at < input.len() => input[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    input.truncate(INPUT_MAX);
    input
}
