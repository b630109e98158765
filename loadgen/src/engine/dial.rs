//! One login in progress, from the TCP connection to ServerInfo.

use super::poller::Ready;
use super::transport::Transport;
use crate::cli::Target;
use crate::derp::frame::Deframer;
use crate::derp::login::{Identity, Login, Upgrade};
use crate::error::ConnError;
use crate::tls::handshake::Handshake;

pub struct Dial {
    pub transport: Transport,
    pub started: u64,
    stage: Stage,
}

enum Stage {
    Connecting(Identity),
    Handshake(Identity, Box<Handshake>),
    Login(Box<Login>),
    /// Between two stages; a dial that fails there is not asked again.
    Broken,
}

/// Space that all dials share.
pub struct Scratch<'a> {
    pub rx: &'a mut [u8],
    pub tx: &'a mut Vec<u8>,
}

impl Dial {
    pub fn start(target: &Target, identity: Identity, now: u64) -> Result<Self, ConnError> {
        Ok(Self { transport: Transport::connect(target.addr)?, started: now, stage: Stage::Connecting(identity) })
    }

    /// True when the login is complete.
    pub fn advance(&mut self, target: &Target, ready: Ready, scratch: Scratch<'_>) -> Result<bool, ConnError> {
        let Scratch { rx, tx } = scratch;
        tx.clear();
        match std::mem::replace(&mut self.stage, Stage::Broken) {
            Stage::Connecting(identity) if ready.write => {
                self.transport.connected()?;
                self.connected(target, identity, tx)?;
            }
            Stage::Handshake(identity, mut handshake) => {
                self.transport.flush()?;
                let mut complete = false;
                self.transport.receive(rx, usize::MAX, |bytes, _| {
                    complete = handshake.feed(bytes, tx)?;
                    Ok(())
                })?;
                if complete {
                    let established = handshake.finish()?;
                    self.transport.start_tls(established.records, established.leftover);
                    self.login(target, identity, target.upgrade(established.relay_key), tx)?;
                } else {
                    self.transport.write_raw(tx)?;
                    self.stage = Stage::Handshake(identity, handshake);
                }
            }
            Stage::Login(mut login) => {
                self.transport.flush()?;
                let mut complete = false;
                let mut reply = Vec::new();
                self.transport.receive(rx, usize::MAX, |bytes, _| {
                    complete = login.feed(bytes, &mut reply)?;
                    Ok(())
                })?;
                self.stage = Stage::Login(login);
                if !reply.is_empty() {
                    self.transport.write(tx, |writer| writer.put(&reply))?;
                }
                return Ok(complete);
            }
            stage => self.stage = stage,
        }
        Ok(false)
    }

    /// Only after `advance` has returned true.
    pub fn finish(mut self) -> (Transport, Deframer) {
        let deframer = match self.stage {
            Stage::Login(login) => {
                let (deframer, websocket) = login.into_parts();
                self.transport.websocket = websocket.map(Box::new);
                deframer
            }
            _ => Deframer::default(),
        };
        (self.transport, deframer)
    }

    pub fn waiting_for(&self) -> &'static str {
        match &self.stage {
            Stage::Connecting(_) => "connecting",
            Stage::Handshake(..) => "shaking hands",
            Stage::Login(login) => login.waiting_for(),
            Stage::Broken => "shaking hands or logging in",
        }
    }

    fn connected(&mut self, target: &Target, identity: Identity, tx: &mut Vec<u8>) -> Result<(), ConnError> {
        let Some(tls) = &target.tls else {
            return self.login(target, identity, target.upgrade(None), tx);
        };
        let mut handshake = Box::new(Handshake::new(&tls.config, &tls.name)?);
        handshake.feed(&[], tx)?;
        self.transport.write_raw(tx)?;
        self.stage = Stage::Handshake(identity, handshake);
        Ok(())
    }

    /// Sends the request behind the end of the handshake, which is in `tx`.
    fn login(
        &mut self,
        target: &Target,
        identity: Identity,
        upgrade: Upgrade,
        tx: &mut Vec<u8>,
    ) -> Result<(), ConnError> {
        let mut request = Vec::new();
        let login = Login::start(identity, &target.authority, &target.path, upgrade, &mut request)?;
        self.transport.write_behind(tx, |writer| writer.put(&request))?;
        self.stage = Stage::Login(Box::new(login));
        Ok(())
    }
}
