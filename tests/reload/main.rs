//! A relay that runs reads its configuration again: what changes, what does not, and that nobody who is connected
//! notices.

#[path = "../relay_support/mod.rs"]
mod relay_support;

mod bad;
mod certificates;
mod place;
mod settings;
