//! While the relay stops, whoever asks is told so, until the end.

use std::net::TcpStream;
use std::time::Instant;

use rustix::process::Signal;

use crate::http::*;
use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::process::status;
use crate::relay_support::*;

fn not_ready_at_once_and_answering_until_the_end(ground: Ground) {
    let room = ["--queue-packets=65536", "--queue-bytes=256MiB"];
    // It ends when the receiver has gone, and not before.
    let time = ["--flush-time=1m", "--tcp-write-timeout=1m", "--tcp-user-timeout=1m"];
    let mut relay = start_on(ground, &[&room[..], &time].concat());
    let to = admin(&relay);
    assert_eq!(get(to, "/readyz").status, 200);
    let mut streams = [Stream::open(to, "/debug/traffic"), Stream::open(relay.addr, "/debug/traffic")];
    for stream in &mut streams {
        assert!(stream.round().is_some(), "{}", stream.head);
    }
    // Megabytes wait for one that does not read: the relay takes its time.
    let receiver = visit(&relay).receive_buffer(16 * 1024).log_in();
    let mut sender = visit(&relay).log_in();
    let packet = send_packet(&receiver.public(), &noise(1, 2000));
    for _ in 0..80 {
        sender.send(&packet.repeat(50));
    }
    sender.expect_quiet();

    relay.signal(Signal::TERM);
    relay.expect_line("SIGTERM");
    let begin = Instant::now();
    let refusal = loop {
        let answer = get(to, "/readyz");
        if answer.status != 200 {
            break answer;
        }
        assert!(begin.elapsed() < PATIENCE, "it is still ready");
    };
    assert_eq!((refusal.status, &*refusal.body), (503, "stopping: clients are told to go elsewhere\n"));
    assert!(relay.is_running(), "expected it to wait for who does not read");
    assert_eq!(get(to, "/healthz").status, 200, "it is not to be killed for that");
    assert_eq!(get(to, "/metrics").status, 200);
    for stream in &mut streams {
        while stream.round().is_some() {}
    }
    assert!(streams[0].whole, "cut off in the middle");
    drop(receiver);
    assert_eq!(status(relay.wait()), 0);
    assert!(TcpStream::connect(to).is_err(), "the admin listener is still open");
}

on_workers!(not_ready_at_once_and_answering_until_the_end);
