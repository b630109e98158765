//! The STUN server over real sockets: who is answered, from where, how much, and that nothing that a stranger sends
//! keeps others from their answers.

#[path = "../relay_support/mod.rs"]
mod relay_support;

mod process;
mod server;
mod support;
mod tools;
