//! `derpring-loadgen stun` against a server that answers rightly, wrongly, or not at all.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;

use serde_json::Value;

/// Answers what it is asked, as this makes it of the right answer; the thread ends with the test program.
fn server(spoil: fn(u32, &mut Vec<u8>)) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Room for a whole run, or what the kernel allows: what waits for this thread is not lost.
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 1 << 20).unwrap();
    let addr = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut request = [0; 100];
        for count in 0.. {
            let (len, from) = socket.recv_from(&mut request).unwrap();
            assert_eq!((len, &request[24..32]), (40, &b"tailnode"[..]));
            let SocketAddr::V4(v4) = from else { unreachable!("the socket is of IPv4") };
            let mut answer = [&[1, 1, 0, 12][..], &request[4..20], &[0, 0x20, 0, 8, 0, 1]].concat();
            answer.extend((from.port() ^ 0x2112).to_be_bytes());
            answer.extend(v4.ip().octets().iter().zip([0x21, 0x12, 0xa4, 0x42]).map(|(byte, mask)| byte ^ mask));
            spoil(count, &mut answer);
            if !answer.is_empty() {
                socket.send_to(&answer, from).unwrap();
            }
        }
    });
    addr
}

fn run(server: SocketAddr, flags: &[&str]) -> (i32, String, Value) {
    let file = tempfile(server);
    let output = Command::new(env!("CARGO_BIN_EXE_derpring-loadgen"))
        .args(["stun", &server.to_string(), "--warmup", "50ms", "--duration", "300ms", "--max-lateness", "30s"])
        .args(["--json", file.to_str().unwrap()])
        .args(flags)
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let json = std::fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str(&text).ok());
    let _ = std::fs::remove_file(&file);
    (output.status.code().unwrap(), said, json.unwrap_or_default())
}

fn tempfile(server: SocketAddr) -> std::path::PathBuf {
    let name = format!("stun-{}-{}.json", std::process::id(), server.port());
    std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn every_answer_is_counted() {
    let pid = std::process::id().to_string();
    let flags = ["--rate", "2000", "--burst", "4", "--sources", "3", "--spread", "--relay-pid", &pid];
    let (exit, said, json) = run(server(|_, _| {}), &flags);
    assert_eq!(exit, 0, "{said}");
    assert_eq!(json["sent"], 600, "{said}");
    assert_eq!((&json["answered"], &json["lost"]), (&json["sent"], &0.into()), "{said}");
    assert!(json["relay"]["cpu_us_per_answer"].is_number() && said.contains("us per answer"), "{said}");
}

#[test]
fn what_is_not_answered_is_lost() {
    let (exit, said, json) = run(server(|count, answer| answer.truncate(32 * (count as usize % 2))), &[]);
    assert_eq!(exit, 0, "{said}");
    let (sent, lost) = (json["sent"].as_u64().unwrap(), json["lost"].as_u64().unwrap());
    assert_eq!((sent, lost), (300, 150), "{said}");
}

#[test]
fn a_wrong_answer_ends_the_run() {
    for (spoil, words) in [
        (|_, answer: &mut Vec<u8>| answer[31] ^= 1, "and 127.0.0.1:"),
        (|_, answer: &mut Vec<u8>| answer[18] ^= 0x80, "was not asked for"),
        (|_, answer: &mut Vec<u8>| answer[8] ^= 1, "was not asked for"),
        (|_, answer: &mut Vec<u8>| answer.push(0), "no STUN binding success response"),
    ] as [(fn(u32, &mut Vec<u8>), &str); 4]
    {
        let (exit, said, _) = run(server(spoil), &[]);
        assert_eq!(exit, 2, "{said}");
        assert!(said.contains("wrong answer from 127.0.0.1:") && said.contains(words), "{said}");
    }
}

#[test]
fn what_cannot_be_is_said() {
    let (exit, said, _) = run("192.0.2.1:3478".parse().unwrap(), &["--spread"]);
    assert_eq!(exit, 1, "{said}");
    assert!(said.contains("--spread is for a server on 127.0.0.0/8"), "{said}");
    let (exit, said, _) = run("127.0.0.1:9".parse().unwrap(), &["--rate", "0"]);
    assert_eq!(exit, 1, "{said}");
}
