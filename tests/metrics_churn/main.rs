//! Everybody comes and goes a thousand times a second while all pages are asked without pause: whatever is read, at any
//! moment, is whole and only ever counts on, and in the end everything adds up.
//!
//! Three seconds of it, or as many as `DERPRING_CHURN_SECONDS` says.

#[path = "../relay_support/mod.rs"]
mod relay_support;

#[allow(dead_code, reason = "the tests of the admin pages use the rest")]
#[path = "../admin/http.rs"]
mod http;
#[allow(dead_code, reason = "the tests of metrics use the rest")]
#[path = "../metrics/scrape.rs"]
mod scrape;

mod churn;
mod judge;
mod pages;
