//! docs/METRICS.md says what the table says.

use std::{env, fs};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");

#[test]
fn the_document_is_the_tables() {
    let wanted = derpring::control::metrics::document::markdown();
    if env::var_os("DERPRING_WRITE_DOCS").is_some() {
        fs::write(PATH, &wanted).unwrap();
    }
    let there = fs::read_to_string(PATH).unwrap_or_default();
    let differs = wanted.lines().zip(there.lines()).find(|(wanted, there)| wanted != there);
    assert!(
        there == wanted,
        "docs/METRICS.md is not what the table says, first at {differs:?}: \
         run `DERPRING_WRITE_DOCS=1 cargo test --test metrics` and commit it"
    );
}
