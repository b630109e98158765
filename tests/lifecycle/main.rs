//! A relay's life: how it starts, what it counts, how it ends.

#[path = "../relay_support/mod.rs"]
mod relay_support;

mod sandbox;
mod start;
mod stop;
mod vars;
