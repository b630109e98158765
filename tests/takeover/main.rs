//! One relay takes the listening sockets of another, which then drains; and what systemd does with them.

#[path = "../relay_support/mod.rs"]
mod relay_support;

mod failures;
mod stage;
mod systemd;
mod upgrades;
