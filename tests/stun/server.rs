//! The server alone, and what it counts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use derpring::driver::sim::Random;
use derpring::limits;
use derpring::stats::StunResult;
use derpring::stun::{Clients, Stats, Stun};

use crate::relay_support::ground::leave_out;
use crate::support::*;

#[test]
fn each_family_is_told_its_own_address() {
    let server = Server::start(&["0.0.0.0:0"], Clients::Tailscale);
    let four = client("127.0.0.1:0");
    let answer = ask(&four, &TAILNODE, (Ipv4Addr::LOCALHOST, server.addresses[0].port()));
    assert_eq!((mapped(&answer), answer.len()), (four.local_addr().unwrap(), 32));
    server.expect_families(StunResult::Answered, [1, 0]);
    if !has_ipv6() {
        return leave_out("each_family_is_told_its_own_address", "there is no IPv6 here", "DERPRING_REQUIRE_IPV6");
    }
    // A socket of both families sees IPv4 in the form of IPv6, and tells the client nothing of that.
    let both = Server::start(&["[::]:0"], Clients::Tailscale);
    let port = both.addresses[0].port();
    let answer = ask(&four, &TAILNODE, (Ipv4Addr::LOCALHOST, port));
    assert_eq!((mapped(&answer), answer.len()), (four.local_addr().unwrap(), 32));
    let six = client("[::1]:0");
    let answer = ask(&six, &TAILNODE, (Ipv6Addr::LOCALHOST, port));
    assert_eq!((mapped(&answer), answer.len()), (six.local_addr().unwrap(), 44));
    both.expect_families(StunResult::Answered, [1, 1]);
}

#[test]
fn the_answer_comes_from_the_address_that_was_asked() {
    let listen: &[&str] = if has_ipv6() { &["0.0.0.0:0", "[::]:0"] } else { &["0.0.0.0:0"] };
    let server = Server::start(listen, Clients::Tailscale);
    let asker = client("127.0.0.1:0");
    for address in &server.addresses {
        for host in 1..20 {
            let answer = ask(&asker, &TAILNODE, (Ipv4Addr::new(127, 0, host, host), address.port()));
            assert_eq!(mapped(&answer), asker.local_addr().unwrap());
        }
    }
}

#[test]
fn every_socket_is_served_by_the_one_thread() {
    let server = Server::start(&["127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:0"], Clients::Any);
    let asker = client("127.0.0.1:0");
    for round in 0..5 {
        for address in &server.addresses {
            let question = if round % 2 == 0 { &TAILNODE[..] } else { &BARE };
            assert_eq!(mapped(&ask(&asker, question, *address)), asker.local_addr().unwrap());
        }
    }
    server.expect(StunResult::Answered, 15);
}

#[test]
fn who_may_ask_is_the_operators_choice() {
    let strict = Server::start(&["127.0.0.1:0"], Clients::Tailscale);
    let any = Server::start(&["127.0.0.1:0"], Clients::Any);
    let asker = client("127.0.0.1:0");
    let from = asker.local_addr().unwrap();
    asker.send_to(&BARE, strict.addresses[0]).unwrap();
    strict.expect(StunResult::NotStun, 1);
    assert_eq!(mapped(&ask(&asker, &TAILNODE, strict.addresses[0])), from, "and that is the first answer");
    assert_eq!(mapped(&ask(&asker, &BARE, any.addresses[0])), from);
    // CHANGE-REQUEST: error 420, which names it, and nothing is sent from anywhere else.
    let change = *b"\x00\x01\x00\x08\x21\x12\xa4\x42abcdefghijkl\x00\x03\x00\x04\x00\x00\x00\x06";
    let answer = ask(&asker, &change, any.addresses[0]);
    assert_eq!((&answer[..2], &answer[24..28]), (&[0x01, 0x11][..], &[0, 0, 4, 20][..]));
    assert_eq!(answer[36..], *b"\x00\x0a\x00\x02\x00\x03\x00\x00");
    any.expect(StunResult::Refused, 1);
    any.expect(StunResult::Answered, 1);
}

/// Garbage of every length, halves of requests, requests of others: none is answered, all are counted, and the next
/// honest client is served.
#[test]
fn garbage_is_counted_and_nothing_else() {
    let server = Server::start(&["127.0.0.1:0"], Clients::Tailscale);
    let to = server.addresses[0];
    let (stranger, asker) = (client("127.0.0.1:0"), client("127.0.0.1:0"));
    let mut random = Random::new(7);
    let mut sent = 0;
    for round in 0..3000 {
        let mut datagram: Vec<u8> = match round % 4 {
            0 => (0..random.below(60)).map(|_| random.next() as u8).collect(),
            1 => TAILNODE[..random.below(40)].to_vec(),
            2 => BARE.to_vec(),
            _ => vec![0; 1 + random.below(9000)],
        };
        if round % 8 == 1 && datagram.len() > 8 {
            datagram[random.below(8)] ^= 0x10;
        }
        stranger.send_to(&datagram, to).unwrap();
        sent += 1;
        if round % 100 == 0 {
            server.expect(StunResult::NotStun, sent);
            assert_eq!(mapped(&ask(&asker, &TAILNODE, to)), asker.local_addr().unwrap());
        }
    }
    server.expect(StunResult::NotStun, sent);
    stranger.set_nonblocking(true).unwrap();
    assert!(stranger.recv(&mut [0; 100]).is_err(), "no answer to any of it");
}

/// A network that floods has its burst and no more than its rate, and a client of another is served all the while.
#[test]
fn a_flood_is_limited_by_network_and_others_are_served() {
    let server = Server::start(&["127.0.0.1:0"], Clients::Tailscale);
    let to = server.addresses[0];
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flooder = {
        let stop = stop.clone();
        thread::spawn(move || {
            let sockets: Vec<_> = (1..50).map(|host| client(&format!("127.1.2.{host}:0"))).collect();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for socket in &sockets {
                    // A full buffer of the receiver drops what comes; the sender is not told.
                    let _ = socket.send_to(&TAILNODE, to);
                }
            }
        })
    };
    let limited = || server.stats.count(StunResult::RateLimited);
    expect("the flood to meet its limit", || limited() > 0);
    let asker = client("127.1.3.1:0");
    // Its datagrams may be lost in the full buffer, like anybody's.
    asker.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
    let mut served = 0;
    expect("another network to be served", || {
        asker.send_to(&TAILNODE, to).unwrap();
        served += u32::from(asker.recv_from(&mut [0; 100]).is_ok());
        served == 20
    });
    let before = limited();
    expect("the flood to go on meeting it", || limited() > before + 1000);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flooder.join().unwrap();
    assert!(server.stats.count(StunResult::Answered) >= u64::from(limits::STUN_ANSWERS_BURST));
}

/// Ten thousand networks at once: each is as new as the next.
#[test]
fn many_networks_are_all_answered() {
    let server = Server::start(&["0.0.0.0:0"], Clients::Tailscale);
    let to: SocketAddr = (Ipv4Addr::LOCALHOST, server.addresses[0].port()).into();
    for network in 0..1000_u32 {
        let ip = Ipv4Addr::from_bits(0x7f00_0001 + (network << 8));
        let asker = client(&format!("{ip}:0"));
        assert_eq!(mapped(&ask(&asker, &TAILNODE, to)), asker.local_addr().unwrap());
    }
    assert_eq!(server.stats.count(StunResult::RateLimited), 0);
}

/// What an old process has not answered when it stops, the new one answers that has the same socket.
#[test]
fn another_server_goes_on_with_the_same_sockets() {
    let mut old = Server::start(&["127.0.0.1:0"], Clients::Tailscale);
    let to = old.addresses[0];
    let asker = client("127.0.0.1:0");
    ask(&asker, &TAILNODE, to);
    let stun = old.stun.take().unwrap();
    let duplicates: Vec<UdpSocket> =
        stun.sockets().iter().map(|s| s.as_fd().try_clone_to_owned().unwrap().into()).collect();
    stun.stop();
    asker.send_to(&TAILNODE, to).unwrap();
    let stats = Arc::new(Stats::default());
    let new = Stun::start(duplicates, Clients::Tailscale, stats.clone()).unwrap();
    assert_eq!(new.addresses(), [to]);
    let mut answer = [0; 100];
    let (len, from) = asker.recv_from(&mut answer).expect("the one that came in between is answered");
    assert_eq!((len, from), (32, to));
    ask(&asker, &TAILNODE, to);
    expect("both to be counted", || stats.count(StunResult::Answered) == 2);
    new.stop();
}

/// A socket that is not one of UDP is refused before anything runs, whoever it came from.
#[test]
fn what_is_no_udp_socket_is_refused() {
    let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let socket = UdpSocket::from(std::os::fd::OwnedFd::from(stream));
    assert!(Stun::start(vec![socket], Clients::Any, Arc::default()).is_err());
}

/// Whoever shares a socket can shut it down. It is then always ready and never has anything: that must neither take a
/// core nor keep another socket from being served.
#[test]
fn a_socket_that_was_shut_down_rests_and_others_are_served() {
    let begin = Instant::now();
    let server = Server::start(&["127.0.0.1:0", "127.0.0.1:0"], Clients::Tailscale);
    let asker = client("127.0.0.1:0");
    let both = &server.addresses;
    both.iter().for_each(|address| drop(ask(&asker, &TAILNODE, *address)));
    // It says that it is not connected, and does it all the same.
    let _ = socket2::SockRef::from(&server.stun.as_ref().unwrap().sockets()[0]).shutdown(std::net::Shutdown::Both);
    expect("the dead socket to be noticed", || server.stats.read_errors.get() > 0);
    for _ in 0..200 {
        ask(&asker, &TAILNODE, both[1]);
    }
    let errors = server.stats.read_errors.get();
    assert!(errors <= 2 + begin.elapsed().as_secs(), "{errors} errors: one a second, not thousands");
}

#[test]
fn it_stops_in_the_middle_of_a_flood() {
    let mut server = Server::start(&["127.0.0.1:0"], Clients::Any);
    let to = server.addresses[0];
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flooder = {
        let stop = stop.clone();
        thread::spawn(move || {
            let socket = client("127.0.0.1:0");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = socket.send_to(&BARE, to);
            }
        })
    };
    server.expect_some(StunResult::RateLimited);
    server.stun.take().unwrap().stop();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flooder.join().unwrap();
    UdpSocket::bind(to).expect("the port is free");
}

impl Server {
    /// An answer is counted a moment after it has been sent.
    #[track_caller]
    fn expect_families(&self, result: StunResult, wanted: [u64; 2]) {
        let families = || self.stats.requests[result as usize].each_ref().map(|cell| cell.get());
        expect(&format!("{wanted:?} that are {result}, by family"), || families() == wanted);
    }

    fn expect_some(&self, result: StunResult) {
        expect(&format!("something that is {result}"), || self.stats.count(result) > 0);
    }
}
