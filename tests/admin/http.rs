//! Asking for a page, in bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::relay_support::ground::{leave_out, within};
use crate::relay_support::process::{command, flags};
use crate::relay_support::*;

pub const GROUND: Ground = Ground { backend: "epoll", workers: 2 };

/// A development relay with an admin listener of its own on a free port.
pub fn start(args: &[&str]) -> Relay {
    start_on(GROUND, args)
}

pub fn start_on(ground: Ground, args: &[&str]) -> Relay {
    Relay::spawn(command().args(flags(ground)).arg("--admin-listen=127.0.0.1:0").args(args))
}

/// Where the admin pages are.
pub fn admin(relay: &Relay) -> SocketAddr {
    let line = relay.value("admin");
    let address = line.strip_prefix("http://").and_then(|rest| rest.strip_suffix('/'));
    address.and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
}

/// Runs a test that is the same everywhere.
pub fn once(name: &str, test: impl FnOnce() + Send + 'static) {
    within(Duration::from_secs(240), name, test);
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}\n{}", self.head, self.body);
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("expected JSON: {e}: {}", self.body))
    }

    fn read(stream: &mut impl Read) -> Self {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap_or_else(|e| panic!("expected a whole answer: {e}"));
        let all = String::from_utf8(all).unwrap();
        let (head, body) = all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("expected an answer, got {all:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }
}

pub fn get(to: SocketAddr, path: &str) -> Answer {
    ask(to, "GET", path, &[], "")
}

pub fn ask(to: SocketAddr, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let mut stream = connect(to);
    stream.write_all(request(method, path, headers, body).as_bytes()).unwrap();
    Answer::read(&mut stream)
}

pub fn ask_unix(path: &Path, page: &str) -> Answer {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request("GET", page, &[], "").as_bytes()).unwrap();
    Answer::read(&mut stream)
}

pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// One that is the last on its connection. A Host among the headers takes the place of the usual one.
pub fn request(method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let mut out = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        out.push_str("Host: 127.0.0.1\r\n");
    }
    for header in headers {
        out.push_str(header);
        out.push_str("\r\n");
    }
    if !body.is_empty() {
        out.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    out + "\r\n" + body
}

/// A page that goes on, line by line.
pub struct Stream {
    lines: BufReader<TcpStream>,
    pub head: String,
    /// The last chunk has come, and not just the end of the connection.
    pub whole: bool,
}

impl Stream {
    pub fn open(to: SocketAddr, path: &str) -> Self {
        let mut socket = connect(to);
        socket.write_all(request("GET", path, &[], "").as_bytes()).unwrap();
        let mut lines = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(lines.read_line(&mut head).unwrap(), 0, "expected a head, got {head:?}");
        }
        Self { lines, head, whole: false }
    }

    /// The next chunk; `None`: the last one, or the end of the connection.
    pub fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        match self.lines.read_line(&mut size) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(e) if wire::is_reset(&e) => return None,
            Err(e) => panic!("expected a chunk or an end: {e}"),
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_else(|e| panic!("{e}: {size:?} is no chunk size"));
        let mut chunk = vec![0; size + 2];
        self.lines.read_exact(&mut chunk).unwrap();
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(size);
        self.whole = size == 0;
        (size > 0).then(|| String::from_utf8(chunk).unwrap())
    }

    /// The next round of traffic: its lines, and the blank one, which is left out.
    pub fn round(&mut self) -> Option<Vec<Value>> {
        let chunk = self.chunk()?;
        let lines = chunk.strip_suffix("\n\n").or(chunk.strip_suffix('\n')).expect("a blank line at the end");
        Some(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }
}

/// A range that `ip` is not in.
pub fn elsewhere(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "2001:db8::/32" } else { "192.0.2.0/24" }
}

/// An address of this machine that is not loopback, if it has one.
pub fn outside_address(name: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: this only asks for a route.
    let address = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()).ok().map(|address| address.ip());
    let address = address.filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
    if address.is_none() {
        leave_out(name, "this machine has no address but loopback", "DERPRING_REQUIRE_ADDRESS");
    }
    address
}
