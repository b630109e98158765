//! How soon after its start a relay relays.

use std::time::{Duration, Instant};

use super::dial::{Dial, Scratch};
use super::poller::{Interest, Poller, Precision};
use super::transport::Transport;
use super::{RX_LEN, watch};
use crate::cli::Plan;
use crate::derp::frame::{Deframer, KEY_LEN, header, kind};
use crate::derp::login::Identity;
use crate::error::{ConnError, Error, Role, Who};

/// Between two attempts to connect, and between two packets: a relay may not know the receiver yet
/// when it has answered its login.
const STEP: Duration = Duration::from_millis(1);
const SENDING: &str = "waiting for the first packet";
const DATA: &[u8] = b"the first packet between the first two clients";

/// Milliseconds from the first attempt to connect to the first packet that arrived.
pub fn packet(plan: &Plan) -> Result<f64, Error> {
    let start = Instant::now();
    let mut clients = Clients::new(plan)?;
    while start.elapsed() < plan.login_timeout {
        if clients.turn(start)? {
            return Ok(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Err(Error::FirstPacket(plan.login_timeout, plan.targets[0].addr))
}

struct Clients<'a> {
    plan: &'a Plan,
    poller: Poller,
    /// Sender and receiver.
    clients: [Client; 2],
    next_packet: Duration,
    rx: Box<[u8]>,
    tx: Vec<u8>,
}

struct Client {
    identity: Identity,
    state: State,
}

impl Client {
    fn stage(&self) -> &'static str {
        match &self.state {
            State::Refused(_) => "connecting",
            State::Dialing(dial) => dial.waiting_for(),
            State::Up(_) => SENDING,
        }
    }
}

enum State {
    /// The relay refused; the next attempt is not before then.
    Refused(Duration),
    Dialing(Box<Dial>),
    Up(Box<(Transport, Deframer)>),
}

impl<'a> Clients<'a> {
    fn new(plan: &'a Plan) -> Result<Self, Error> {
        let client = || {
            let identity = super::setup::identities(1)?.remove(0);
            Ok::<_, Error>(Client { identity, state: State::Refused(Duration::ZERO) })
        };
        Ok(Self {
            plan,
            poller: Poller::new().map_err(|source| Error::System { what: "cannot set up epoll", source })?,
            clients: [client()?, client()?],
            next_packet: Duration::ZERO,
            rx: vec![0; RX_LEN].into(),
            tx: Vec::new(),
        })
    }

    /// True when the packet has arrived.
    fn turn(&mut self, start: Instant) -> Result<bool, Error> {
        for token in 0..2 {
            self.dial(token, start.elapsed())?;
        }
        self.send(start.elapsed()).map_err(|source| self.failed(0, SENDING, source))?;
        self.poller.wait(STEP, Precision::Fine).map_err(|source| Error::System { what: "epoll failed", source })?;
        let mut arrived = false;
        for index in 0..self.poller.count() {
            let Some(ready) = self.poller.ready(index) else { continue };
            let stage = self.clients[ready.token].stage();
            arrived |= match self.on_ready(ready, start.elapsed()) {
                Err(ConnError::Io(err)) if err.kind() == std::io::ErrorKind::ConnectionRefused => {
                    self.clients[ready.token].state = State::Refused(start.elapsed() + STEP);
                    false
                }
                result => result.map_err(|source| self.failed(ready.token, stage, source))?,
            };
        }
        Ok(arrived)
    }

    fn dial(&mut self, token: usize, now: Duration) -> Result<(), Error> {
        let client = &mut self.clients[token];
        let State::Refused(until) = client.state else { return Ok(()) };
        if now < until {
            return Ok(());
        }
        let target = &self.plan.targets[0];
        let dial = Dial::start(target, client.identity.clone(), 0).and_then(|dial| {
            self.poller.add(&dial.transport, token, Interest::BOTH)?;
            Ok(dial)
        });
        match dial {
            Ok(dial) => client.state = State::Dialing(Box::new(dial)),
            Err(ConnError::Io(err)) if err.kind() == std::io::ErrorKind::ConnectionRefused => {
                client.state = State::Refused(now + STEP);
            }
            Err(source) => return Err(self.failed(token, "connecting", source)),
        }
        Ok(())
    }

    fn send(&mut self, now: Duration) -> Result<(), ConnError> {
        let [sender, receiver] = &mut self.clients;
        let (State::Up(up), State::Up(_)) = (&mut sender.state, &receiver.state) else {
            return Ok(());
        };
        if now < self.next_packet {
            return Ok(());
        }
        self.next_packet = now + STEP;
        up.0.write(&mut self.tx, |writer| {
            writer.put(&header(kind::SEND_PACKET, KEY_LEN + DATA.len()));
            writer.put(&receiver.identity.public);
            writer.put(DATA);
        })?;
        watch(&self.poller, 0, &mut up.0)
    }

    fn on_ready(&mut self, ready: super::poller::Ready, now: Duration) -> Result<bool, ConnError> {
        let sender = self.clients[0].identity.public;
        let client = &mut self.clients[ready.token];
        match &mut client.state {
            State::Refused(_) => {}
            State::Dialing(dial) => {
                let scratch = Scratch { rx: &mut self.rx, tx: &mut self.tx };
                let complete = dial.advance(&self.plan.targets[0], ready, scratch)?;
                watch(&self.poller, ready.token, &mut dial.transport)?;
                if complete && let State::Dialing(dial) = std::mem::replace(&mut client.state, State::Refused(now)) {
                    client.state = State::Up(Box::new(dial.finish()));
                }
            }
            State::Up(up) => {
                let (transport, deframer) = &mut **up;
                let mut arrived = false;
                if ready.write {
                    transport.flush()?;
                }
                transport.receive(&mut self.rx, usize::MAX, |plain, _| {
                    deframer.feed(plain, |kind, payload| {
                        arrived |=
                            kind == kind::RECV_PACKET && payload.strip_prefix(&sender).is_some_and(|data| data == DATA);
                        Ok::<(), ConnError>(())
                    })
                })?;
                watch(&self.poller, ready.token, transport)?;
                return Ok(arrived);
            }
        }
        Ok(false)
    }
}

impl Clients<'_> {
    fn failed(&self, token: usize, stage: &'static str, source: ConnError) -> Error {
        let role = if token == 0 { Role::Sender } else { Role::Receiver };
        let addr = self.plan.targets[0].addr;
        Error::Login { who: Who { role, index: 0 }, addr, stage, source: Box::new(source) }
    }
}
