//! A relay as a process, and clients that speak to it in bytes of their own: nothing here knows the relay's code.

#![allow(dead_code, unused_imports, unused_macros, reason = "each test program uses a part")]

pub mod client;
pub mod frames;
pub mod ground;
pub mod process;
pub mod wire;

pub use client::{Client, Event, Visit, visit, visit_at};
pub use frames::{Frame, Key};
pub use ground::{Ground, PATIENCE};
pub use process::Relay;
pub use wire::{End, Mode, Wire};
