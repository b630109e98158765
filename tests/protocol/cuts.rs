//! The client's first flight, cut everywhere: each byte may be the last of what the relay sees at once.

use crate::relay_support::frames::*;
use crate::relay_support::ground::{on_backends, on_workers};
use crate::relay_support::*;

/// What must have happened before a test goes on: the relay has read what was written so far.
///
/// There is no event for that. An answer of the edge to somebody else, and one of a worker, come close.
struct Bystander<'a> {
    relay: &'a Relay,
    member: Client,
    prober: Option<(Client, u32)>,
}

impl<'a> Bystander<'a> {
    fn new(relay: &'a Relay) -> Self {
        Self { relay, member: visit(relay).log_in(), prober: None }
    }

    fn edge_turns(&mut self) {
        // A connection has a hundred requests.
        const REQUESTS: u32 = 90;
        let prober = self.prober.take().filter(|(_, used)| *used < REQUESTS);
        let (mut client, used) = prober.unwrap_or_else(|| (visit(self.relay).connect(), 0));
        client.send(b"GET /derp/probe HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = client.expect_head();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
        self.prober = Some((client, used + 1));
    }

    fn worker_turns(&mut self) {
        self.member.expect_quiet();
    }
}

/// Upgrade, login, home, and packets, as one flight.
struct Flight<'a> {
    visit: Visit<'a>,
    packets: Vec<Vec<u8>>,
}

impl<'a> Flight<'a> {
    fn new(relay: &'a Relay, mode: Mode) -> Self {
        let visit = visit(relay).mode(mode);
        let packets = [0, 5, 70].map(|len| noise(u64::from(visit.key.public[0]) << 8 | len as u64, len)).to_vec();
        Self { visit, packets }
    }

    fn parts(&self, to: &Public) -> Vec<Vec<u8>> {
        let mut parts = vec![self.visit.request(), self.visit.client_info(), note_preferred(true)];
        parts.extend(self.packets.iter().map(|data| send_packet(to, data)));
        parts
    }

    #[track_caller]
    fn has_landed(&self, client: &mut Client, witness: &mut Client) {
        client.expect_greeting();
        client.expect_server_info();
        self.packets_have_landed(client, witness);
    }

    #[track_caller]
    fn packets_have_landed(&self, client: &mut Client, witness: &mut Client) {
        for data in &self.packets {
            witness.expect(&recv_packet(&client.public(), data));
        }
        client.expect_quiet();
    }
}

/// One record for everything, or one for each part; in plain these are the same bytes.
fn sealed(client: &mut Client, parts: &[Vec<u8>], together: bool) -> Vec<u8> {
    if together {
        return client.wire.seal(&parts.concat());
    }
    parts.iter().flat_map(|part| client.wire.seal(part)).collect()
}

/// Cuts one flight of a fresh client after `cut` bytes. `false`: it is not that long.
fn fly(relay: &Relay, mode: Mode, together: bool, cut: usize, witness: &mut Client, by: &mut Bystander<'_>) -> bool {
    let flight = Flight::new(relay, mode);
    let mut client = flight.visit.connect();
    let bytes = sealed(&mut client, &flight.parts(&witness.public()), together);
    if cut > bytes.len() {
        return false;
    }
    client.wire.write_raw(&bytes[..cut]).unwrap();
    by.edge_turns();
    by.worker_turns();
    client.wire.write_raw(&bytes[cut..]).unwrap();
    flight.has_landed(&mut client, witness);
    let source = client.public();
    drop(client);
    witness.expect(&peer_gone(&source, DISCONNECTED));
    true
}

fn the_flight_is_cut_at_every_byte(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        for together in [true, false] {
            let mut witness = visit(relay).log_in();
            let mut by = Bystander::new(relay);
            let mut cut = 0;
            while fly(relay, mode, together, cut, &mut witness, &mut by) {
                cut += 1;
            }
            assert!(cut > 300, "{mode:?}: a flight of {cut} bytes is not the one that was meant");
            witness.expect_quiet();
            if mode == Mode::Plain {
                break;
            }
        }
    }
}

/// The same with sessions spread over workers, at every seventh byte.
fn the_flight_is_cut_here_and_there(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let mut witness = visit(relay).log_in();
        let mut by = Bystander::new(relay);
        let mut cut = 0;
        while fly(relay, mode, cut % 2 == 0, cut, &mut witness, &mut by) {
            cut += 7;
        }
        witness.expect_quiet();
    }
}

/// The login is answered, so a worker owns the connection; then the rest comes in two pieces.
fn what_follows_the_login_is_cut_at_every_byte(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let mut witness = visit(relay).log_in();
        let mut by = Bystander::new(relay);
        // One connection: everything that is cut goes through the same state.
        let flight = Flight::new(relay, mode);
        let mut client = flight.visit.log_in();
        for together in [true, false] {
            let mut cut = 0;
            loop {
                let parts = &flight.parts(&witness.public())[2..];
                let bytes = sealed(&mut client, parts, together);
                let (first, second) = bytes.split_at(cut.min(bytes.len()));
                client.wire.write_raw(first).unwrap();
                by.worker_turns();
                client.wire.write_raw(second).unwrap();
                flight.packets_have_landed(&mut client, &mut witness);
                if cut > bytes.len() {
                    break;
                }
                cut += 1;
            }
        }
        witness.expect_quiet();
    }
}

/// The beginning of a frame or record is in the edge's hands when the worker takes over.
fn a_frame_begins_behind_the_login_and_ends_later(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let mut witness = visit(relay).log_in();
        for together in [true, false] {
            for size in [3, 300, 20_000, MAX_PACKET] {
                let visit = visit(relay).mode(mode);
                let data = noise(size as u64, size);
                let packet = send_packet(&witness.public(), &data);
                for cut in [1, 4, 5, 6, 36, 37, 38, packet.len() / 2, packet.len() - 1] {
                    let visit = visit.clone().key(&Key::fresh());
                    let mut client = visit.connect();
                    let before = [visit.request(), visit.client_info()];
                    // In one record, the cut is in the frame; else in the record that the frame is in.
                    let (first, second) = if together {
                        let first = client.wire.seal(&[&before.concat()[..], &packet[..cut]].concat());
                        (first, client.wire.seal(&packet[cut..]))
                    } else {
                        let mut first = client.wire.seal(&before.concat());
                        let sealed = client.wire.seal(&packet);
                        first.extend_from_slice(&sealed[..cut]);
                        (first, sealed[cut..].to_vec())
                    };
                    client.wire.write_raw(&first).unwrap();
                    client.expect_greeting();
                    client.expect_server_info();
                    client.wire.write_raw(&second).unwrap();
                    witness.expect(&recv_packet(&client.public(), &data));
                    client.expect_quiet();
                    let source = client.public();
                    drop(client);
                    witness.expect(&peer_gone(&source, DISCONNECTED));
                }
            }
        }
    }
}

fn a_flight_of_single_bytes(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let mut witness = visit(relay).log_in();
        for together in [true, false] {
            let flight = Flight::new(relay, mode);
            let mut client = flight.visit.connect();
            for byte in sealed(&mut client, &flight.parts(&witness.public()), together) {
                client.wire.write_raw(&[byte]).unwrap();
            }
            flight.has_landed(&mut client, &mut witness);
            let source = client.public();
            drop(client);
            witness.expect(&peer_gone(&source, DISCONNECTED));
            // Records of a single byte, too.
            let flight = Flight::new(relay, mode);
            let mut client = flight.visit.connect();
            for byte in flight.parts(&witness.public()).concat() {
                client.send(&[byte]);
            }
            flight.has_landed(&mut client, &mut witness);
            let source = client.public();
            drop(client);
            witness.expect(&peer_gone(&source, DISCONNECTED));
        }
    }
}

on_backends!(the_flight_is_cut_at_every_byte, what_follows_the_login_is_cut_at_every_byte);

mod spread {
    use super::{
        a_flight_of_single_bytes, a_frame_begins_behind_the_login_and_ends_later, the_flight_is_cut_here_and_there,
    };
    super::on_workers!(
        the_flight_is_cut_here_and_there,
        a_frame_begins_behind_the_login_and_ends_later,
        a_flight_of_single_bytes,
    );
}
