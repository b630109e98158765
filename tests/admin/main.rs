//! The admin pages of a relay that runs: what they say, to whom, and that they cost nobody anything.

#[path = "../relay_support/mod.rs"]
mod relay_support;

mod access;
mod clients;
mod crowds;
mod derper;
mod http;
mod log;
mod pages;
mod stop;
mod traffic;
mod unix;
