//! TXT records, which the system's resolver does not look up: one question, one datagram.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// What a server may take, and how often each is asked: what resolvers do unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
const ROUNDS: usize = 2;

const TXT: u16 = 16;

/// The servers of a resolv.conf; without any, this machine.
pub(super) fn servers_of(resolv_conf: &str) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let server = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        server.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53))
    });
    let servers: Vec<_> = servers.take(3).collect();
    if servers.is_empty() { vec![(Ipv4Addr::LOCALHOST, 53).into()] } else { servers }
}

/// # Errors
/// There is no such record, or nobody answers.
pub(super) fn look_up(name: &str, servers: &[SocketAddr]) -> io::Result<Vec<String>> {
    let mut last = io::Error::new(io::ErrorKind::TimedOut, "no name server answers");
    for server in (0..ROUNDS).flat_map(|_| servers) {
        match ask(name, *server, PATIENCE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => last = error,
            found => return found,
        }
    }
    Err(last)
}

fn ask(name: &str, server: SocketAddr, patience: Duration) -> io::Result<Vec<String>> {
    let id = getrandom::u32().map_err(io::Error::other)? as u16;
    let question = question(id, name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "not a DNS name"))?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    // From here on only the server's datagrams are received.
    socket.connect(server)?;
    socket.send(&question)?;
    let deadline = Instant::now() + patience;
    let mut buf = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer from the name server"));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buf) {
            Ok(n) if buf[..n].starts_with(&question[..2]) => return texts(&buf[..n], &question),
            // Late, or forged.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// A query for the TXT records of `name`, recursion desired.
fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut out = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
        out.push(len);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&[TXT.to_be_bytes(), [0, 1]].concat());
    (out.len() <= 12 + 255 + 4).then_some(out)
}

/// The texts of an answer to `question`. A truncated one holds what fits, and a percentage fits.
fn texts(answer: &[u8], question: &[u8]) -> io::Result<Vec<String>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "the name server's answer is malformed");
    let head = answer.first_chunk::<12>().ok_or_else(malformed)?;
    let same = answer.get(12..question.len()).is_some_and(|echo| echo.eq_ignore_ascii_case(&question[12..]));
    if head[2] & 0x80 == 0 || !same {
        return Err(malformed());
    }
    match head[3] & 0x0f {
        0 => {}
        3 => return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such name")),
        code => return Err(io::Error::other(format!("the name server answers with code {code}"))),
    }
    let mut out = Vec::new();
    let mut at = question.len();
    for _ in 0..u16::from_be_bytes([head[6], head[7]]) {
        let (kind, data, next) = record(answer, at).ok_or_else(malformed)?;
        // Aliases stand in front of what they lead to.
        if kind == TXT {
            out.push(text(data).ok_or_else(malformed)?);
        }
        at = next;
    }
    if out.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no TXT record"));
    }
    Ok(out)
}

/// Type and data of the record at `at`, and where the next one begins.
fn record(answer: &[u8], mut at: usize) -> Option<(u16, &[u8], usize)> {
    loop {
        match *answer.get(at)? {
            0 => break at += 1,
            // A pointer ends a name.
            len if len & 0xc0 == 0xc0 => break at += 2,
            len if len & 0xc0 == 0 => at += 1 + usize::from(len),
            _ => return None,
        }
    }
    let fixed = answer.get(at..at + 10)?;
    let begin = at + 10;
    let end = begin + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
    Some((u16::from_be_bytes([fixed[0], fixed[1]]), answer.get(begin..end)?, end))
}

/// The strings of a record, put together.
fn text(mut data: &[u8]) -> Option<String> {
    let mut out = Vec::new();
    while let Some((len, rest)) = data.split_first() {
        let (part, rest) = rest.split_at_checked(usize::from(*len))?;
        out.extend_from_slice(part);
        data = rest;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to `question` with these records behind it.
    fn answer(question: &[u8], code: u8, records: &[&[u8]]) -> Vec<u8> {
        let mut out = question.to_vec();
        (out[2], out[3], out[7]) = (0x81, 0x80 | code, records.len() as u8);
        records.iter().for_each(|record| out.extend_from_slice(record));
        out
    }

    const ALIAS: &[u8] = &[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12];
    const FIFTY: &[u8] = &[1, b'a', 0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 9, 0, 3, 2, b'5', b'0'];
    const TWO_PARTS: &[u8] = &[0, 0, 16, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'7', 1, b'5'];

    #[test]
    fn texts_behind_aliases_and_in_parts() {
        let question = question(7, "rollout.example").unwrap();
        let good = answer(&question, 0, &[ALIAS, FIFTY, TWO_PARTS]);
        assert_eq!(texts(&good, &question).unwrap(), ["50", "75"]);
        for cut in 0..good.len() {
            assert!(texts(&good[..cut], &question).is_err(), "{cut}");
        }
        for at in 12..good.len() {
            let mut spoilt = good.clone();
            spoilt[at] ^= 0xff;
            // Anything but a panic.
            let _ = texts(&spoilt, &question);
        }
        let kind = |code, records: &[&[u8]]| texts(&answer(&question, code, records), &question).unwrap_err().kind();
        assert_eq!(kind(3, &[]), io::ErrorKind::NotFound);
        assert_eq!(kind(0, &[ALIAS]), io::ErrorKind::NotFound);
        assert_eq!(kind(2, &[]), io::ErrorKind::Other);
        assert!(texts(&question, &question).is_err(), "a question is no answer");
        let other = super::question(7, "rollout.exemple").unwrap();
        assert!(texts(&answer(&other, 0, &[FIFTY]), &question).is_err(), "an answer to something else");
    }

    #[test]
    fn names_that_cannot_be_asked_for() {
        assert!(question(1, "a.example.").is_some());
        for name in ["", ".", "a..b", &"a".repeat(64), &"a.".repeat(130)] {
            assert!(question(1, name).is_none(), "{name}");
            assert!(ask(name, "127.0.0.1:9".parse().unwrap(), PATIENCE).is_err());
        }
    }

    #[test]
    fn a_server_is_asked_and_forged_answers_are_passed_over() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut buf = [0; 512];
            let (n, client) = server.recv_from(&mut buf).unwrap();
            let mut forged = answer(&buf[..n], 0, &[TWO_PARTS]);
            forged[0] ^= 1;
            server.send_to(&forged, client).unwrap();
            server.send_to(&answer(&buf[..n], 0, &[FIFTY]), client).unwrap();
        });
        assert_eq!(look_up("rollout.example", &[address]).unwrap(), ["50"]);
        thread.join().unwrap();
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = ask("a.example", silent.local_addr().unwrap(), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn servers_as_resolv_conf_names_them() {
        let file =
            "# nameserver 1.1.1.1\nsearch example\nnameserver 192.0.2.1\nnameserver  2001:db8::1 # x\nnameserver x\n";
        assert_eq!(servers_of(file), ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
        assert_eq!(servers_of(""), ["127.0.0.1:53".parse().unwrap()]);
    }
}
