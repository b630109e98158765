//! Sessions that move between workers take half a message with them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::judge::Judge;
use crate::relay_support::frames::*;
use crate::relay_support::ground::{PATIENCE, grounds};
use crate::relay_support::process::{command, flags};
use crate::relay_support::*;

/// Of each in every round. A session moves when it has sent 16 to another worker in each of two epochs of 500 ms: one
/// round in each is enough.
const PACKETS: u64 = 20;

/// Pairs talk until sessions have moved. What one sends is cut in two anywhere, and the second half comes a while after
/// the first: a session that goes in between has a frame and a message that are not whole.
fn sessions_move_amid_a_message(ground: Ground) {
    for tls in [false, true] {
        let mut start = command();
        start.args(flags(ground)).arg("--admin-listen=127.0.0.1:0");
        if tls {
            start.arg("--cert-mode=self-signed");
        }
        let relay = Relay::spawn(&mut start);
        let mode = if tls { Mode::Tls13 } else { Mode::Plain };
        let mut judges: Vec<Judge> = (0..8).map(|_| Judge::log_in(&relay, mode)).collect();
        let keys: Vec<Public> = judges.iter().map(Judge::public).collect();
        let begin = Instant::now();
        let mut round = 0;
        let mut moved = 0;
        while moved < 3 {
            assert!(begin.elapsed() < PATIENCE, "expected sessions to move; {moved} did");
            round += 1;
            let data =
                |from: usize, n: u64| noise(round * 1000 + from as u64 * 100 + n, 25 + (round * 37 % 125) as usize);
            let all: Vec<Vec<u8>> = (0..judges.len())
                .map(|from| (0..PACKETS).flat_map(|n| send_packet(&keys[from ^ 7], &data(from, n))).collect())
                .collect();
            let cut = |from: usize| (round as usize * 53 + from * 101) % all[from].len();
            for (from, judge) in judges.iter_mut().enumerate() {
                judge.send_fragment(&all[from][..cut(from)], true, false);
            }
            std::thread::sleep(Duration::from_millis(5));
            for (from, judge) in judges.iter_mut().enumerate() {
                judge.send_fragment(&all[from][cut(from)..], false, true);
            }
            for (to, judge) in judges.iter_mut().enumerate() {
                for n in 0..PACKETS {
                    judge.expect(&recv_packet(&keys[to ^ 7], &data(to ^ 7, n)));
                }
            }
            if round % 20 == 0 {
                moved = moves(&relay);
            }
        }
        eprintln!("{moved} moves in {round} rounds");
        for judge in &mut judges {
            judge.expect_quiet();
        }
    }
}

/// How many sessions have moved so far.
fn moves(relay: &Relay) -> u64 {
    let address = relay.value("admin").strip_prefix("http://").unwrap().trim_end_matches('/');
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let values = answer.lines().filter(|line| line.starts_with("derpring_worker_moves_total"));
    let values: Vec<u64> = values.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(!values.is_empty(), "no moves in the metrics: {answer}");
    values.iter().sum()
}

grounds!(epoll_3, "epoll", 3, sessions_move_amid_a_message);
grounds!(uring_3, "uring", 3, sessions_move_amid_a_message);
