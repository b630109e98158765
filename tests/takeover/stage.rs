//! Relays that follow each other with one key and one socket for takeovers.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::relay_support::process::{command, flags};
use crate::relay_support::*;

pub struct Stage {
    pub ground: Ground,
    pub dir: TempDir,
    args: Vec<String>,
}

impl Stage {
    pub fn new(ground: Ground, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { ground, dir: TempDir::new().unwrap(), args }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn takeover_socket(&self) -> PathBuf {
        self.path("takeover")
    }

    /// With a port of its own choice.
    pub fn first(&self) -> Relay {
        Relay::spawn(&mut self.relay(&["--listen=127.0.0.1:0"]))
    }

    /// The first one, with arguments of its own.
    pub fn next_to_nobody(&self, args: &[&str]) -> Relay {
        Relay::spawn(&mut self.relay(args))
    }

    /// Takes over; serves when this returns.
    pub fn next(&self, args: &[&str]) -> Relay {
        Relay::spawn(&mut self.successor(args))
    }

    pub fn successor(&self, args: &[&str]) -> Command {
        let mut all = vec!["--takeover"];
        if !args.iter().any(|arg| arg.starts_with("--listen=")) {
            all.push("--listen=127.0.0.1:0");
        }
        all.extend(args);
        self.relay(&all)
    }

    /// One that takes nothing over.
    pub fn next_command(&self, args: &[&str]) -> Command {
        self.relay(args)
    }

    fn relay(&self, args: &[&str]) -> Command {
        let mut command = self.without_key(&[]);
        command.arg(format!("--key-file={}", self.path("key").display())).args(args);
        command
    }

    /// The caller gives the key.
    pub fn without_key(&self, args: &[&str]) -> Command {
        let mut command = command();
        command.args(flags(self.ground).into_iter().filter(|arg| !arg.starts_with("--listen")));
        command.arg(format!("--takeover-socket={}", self.takeover_socket().display()));
        command.args(&self.args).args(args);
        command
    }
}
