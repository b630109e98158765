//! What a relay says about itself, read as others read it and compared with what they expect.

mod coder;
mod derper;
mod document;
mod ground;
mod ours;
mod scrape;
