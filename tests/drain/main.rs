//! Sessions that go on behind a stop signal, and connections that are too many.

#[path = "../relay_support/mod.rs"]
mod relay_support;

mod accept_limit;
mod signals;
