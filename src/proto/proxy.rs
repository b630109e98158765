//! The PROXY protocol, versions 1 and 2: what a proxy says of its client, in front of everything else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::limits;

/// What the first bytes of a connection are. No TLS record and no HTTP request begins like a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// Too few to tell.
    Undecided,
    Other,
    Header,
}

pub fn lead(buf: &[u8]) -> Lead {
    let begins = |signature: &[u8]| match (buf.starts_with(signature), signature.starts_with(buf)) {
        (true, _) => Lead::Header,
        (false, true) => Lead::Undecided,
        (false, false) => Lead::Other,
    };
    match begins(V1) {
        Lead::Other => begins(V2),
        v1 => v1,
    }
}

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of it, which the caller removes.
    pub len: usize,
    /// `None`: the proxy speaks for itself (a health check), or does not say.
    pub client: Option<SocketAddr>,
}

/// Why a header cannot be used. Always the proxy's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("PROXY header is longer than {} bytes", limits::PROXY_HEADER_MAX)]
    TooLong,
    #[error("PROXY line is malformed")]
    Line,
    #[error("PROXY header has an unknown version or command")]
    Version,
    #[error("PROXY header has an unknown address family")]
    Family,
    #[error("PROXY header is shorter than what it says it holds")]
    Short,
    #[error("PROXY header's checksum is wrong")]
    Checksum,
}

/// Reads the header at the front of `buf`, which [`lead`] has found. `None`: it is not complete yet.
///
/// # Errors
/// The connection cannot be told from one whose client nobody knows, and has to end.
pub fn parse(buf: &[u8]) -> Result<Option<Header>, ProxyError> {
    if buf.starts_with(V2) { parse_v2(buf) } else { parse_v1(buf) }
}

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest line of version 1, with its end.
const V1_MAX: usize = 107;

fn parse_v1(buf: &[u8]) -> Result<Option<Header>, ProxyError> {
    let within = &buf[..buf.len().min(V1_MAX)];
    let Some(end) = within.windows(2).position(|two| two == b"\r\n") else {
        return if buf.len() < V1_MAX { Ok(None) } else { Err(ProxyError::Line) };
    };
    let line = std::str::from_utf8(&buf[V1.len().min(end)..end]).map_err(|_| ProxyError::Line)?;
    let words: Vec<&str> = line.split(' ').collect();
    let client = match words[..] {
        ["UNKNOWN", ..] => None,
        ["TCP4", source, target, source_port, target_port] => {
            Some(v1_source::<Ipv4Addr>([source, target], [source_port, target_port])?)
        }
        ["TCP6", source, target, source_port, target_port] => {
            Some(v1_source::<Ipv6Addr>([source, target], [source_port, target_port])?)
        }
        _ => return Err(ProxyError::Line),
    };
    Ok(Some(Header { len: end + 2, client }))
}

fn v1_source<T: FromStr + Into<IpAddr>>(addresses: [&str; 2], ports: [&str; 2]) -> Result<SocketAddr, ProxyError> {
    let [source, _] = addresses.map(str::parse::<T>);
    let [source_port, target_port] = ports.map(|port| {
        let digits = port.bytes().all(|b| b.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
        port.parse::<u16>().ok().filter(|_| digits)
    });
    match (source, addresses[1].parse::<T>(), source_port, target_port) {
        (Ok(source), Ok(_), Some(port), Some(_)) => Ok(client(source.into(), port)),
        _ => Err(ProxyError::Line),
    }
}

fn parse_v2(buf: &[u8]) -> Result<Option<Header>, ProxyError> {
    const FIXED: usize = 16;
    let Some(fixed) = buf.first_chunk::<FIXED>() else { return Ok(None) };
    let len = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let proxied = match fixed[12] {
        0x20 => false,
        0x21 => true,
        _ => return Err(ProxyError::Version),
    };
    if len > limits::PROXY_HEADER_MAX {
        return Err(ProxyError::TooLong);
    }
    let Some(header) = buf.get(..len) else { return Ok(None) };
    // The proxy's own connection: whatever else stands there means nothing.
    let client = if proxied { v2_client(header, fixed[13], &header[FIXED..])? } else { None };
    Ok(Some(Header { len, client }))
}

/// Of a client that did not come by TCP there is nothing to say here.
fn v2_client(header: &[u8], family: u8, body: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let addresses = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(ProxyError::Family),
    };
    let extras = body.get(addresses..).ok_or(ProxyError::Short)?;
    check_extras(header, header.len() - extras.len())?;
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    Ok(match (family, body.first_chunk::<4>(), body.first_chunk::<16>()) {
        (0x11, Some(ip), _) => Some(client((*ip).into(), port(8))),
        (0x21, _, Some(ip)) => Some(client((*ip).into(), port(32))),
        _ => None,
    })
}

fn client(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

/// Walks the type-length-value fields from `at` on, of which only the checksum matters.
fn check_extras(header: &[u8], mut at: usize) -> Result<(), ProxyError> {
    const CRC32C: u8 = 3;
    while at < header.len() {
        let Some(&[kind, high, low]) = header[at..].first_chunk::<3>() else { return Err(ProxyError::Short) };
        let (value, end) = (at + 3, at + 3 + usize::from(u16::from_be_bytes([high, low])));
        let field = header.get(value..end).ok_or(ProxyError::Short)?;
        if kind == CRC32C {
            let said = field.first_chunk::<4>().filter(|_| field.len() == 4).ok_or(ProxyError::Checksum)?;
            // It was computed over the whole header with zeros in its own place.
            let bytes = header.iter().enumerate().map(|(i, b)| if (value..end).contains(&i) { 0 } else { *b });
            if crc32c(bytes) != u32::from_be_bytes(*said) {
                return Err(ProxyError::Checksum);
            }
        }
        at = end;
    }
    Ok(())
}

/// Castagnoli's polynomial, bit by bit: a header is a few dozen bytes, once per connection.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const REVERSED: u32 = 0x82f6_3b78;
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (REVERSED & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [V2, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    const TCP4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x1f, 0x90, 1, 0xbb];

    fn got(header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
        for cut in 0..header.len() {
            match lead(&header[..cut]) {
                Lead::Other => panic!("{cut} bytes of a header are taken for something else"),
                Lead::Undecided => assert!(cut < V2.len()),
                // A part is never more than the whole: it waits, or is refused for the same reason.
                Lead::Header => match parse(&header[..cut]) {
                    Ok(part) => assert_eq!(part, None, "{cut}"),
                    early => assert_eq!(early, parse(header), "{cut}"),
                },
            }
        }
        assert_eq!(lead(header), Lead::Header);
        let with_more = [header, b"\x16\x03\x01"].concat();
        let whole = parse(&with_more)?.expect("a whole header");
        assert_eq!(whole.len, header.len());
        Ok(whole.client)
    }

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn lines_of_version_1() {
        for (line, client) in [
            ("TCP4 192.0.2.1 10.0.0.1 8080 443", address("192.0.2.1:8080")),
            ("TCP4 255.255.255.255 255.255.255.255 65535 65535", address("255.255.255.255:65535")),
            ("TCP6 2001:db8::1 ::1 1 0", address("[2001:db8::1]:1")),
            ("TCP6 ::ffff:192.0.2.1 ::1 1 2", address("192.0.2.1:1")),
            ("UNKNOWN", None),
            ("UNKNOWN ffff:f...f:ffff whatever 1 2", None),
        ] {
            assert_eq!(got(format!("PROXY {line}\r\n").as_bytes()), Ok(client), "{line}");
        }
        for line in [
            "",
            "TCP4",
            "TCP4 192.0.2.1 10.0.0.1 8080",
            "TCP4 192.0.2.1 10.0.0.1 8080 443 ",
            "TCP4  192.0.2.1 10.0.0.1 8080 443",
            "TCP4 2001:db8::1 ::1 1 2",
            "TCP6 192.0.2.1 10.0.0.1 8080 443",
            "TCP4 192.0.2.01 10.0.0.1 8080 443",
            "TCP4 192.0.2.1 10.0.0.1 +80 443",
            "TCP4 192.0.2.1 10.0.0.1 080 443",
            "TCP4 192.0.2.1 10.0.0.1 65536 443",
            "TCP4 192.0.2.1 here 80 443",
            "UDP4 192.0.2.1 10.0.0.1 80 443",
            "tcp4 192.0.2.1 10.0.0.1 80 443",
            "TCP4 192.0.2.1 10.0.0.1 80 443\n",
        ] {
            assert_eq!(parse(format!("PROXY {line}\r\n").as_bytes()), Err(ProxyError::Line), "{line}");
        }
        assert_eq!(parse(&[b"PROXY UNKNOWN ", &[b'x'; 93][..]].concat()), Err(ProxyError::Line), "107 bytes, no end");
        assert_eq!(parse(b"PROXY TCP4 \xff\r\n"), Err(ProxyError::Line));
    }

    #[test]
    fn headers_of_version_2() {
        let mut tcp6 = [0; 36];
        tcp6[..16].copy_from_slice(&"2001:db8::9".parse::<Ipv6Addr>().unwrap().octets());
        tcp6[32..34].copy_from_slice(&[0, 80]);
        let with_extras = [&TCP4[..], &[0xee, 0, 3, 1, 2, 3], &[4, 0, 0]].concat();
        for (header, client) in [
            (v2(0x21, 0x11, &TCP4), address("192.0.2.1:8080")),
            (v2(0x21, 0x11, &with_extras), address("192.0.2.1:8080")),
            (v2(0x21, 0x21, &tcp6), address("[2001:db8::9]:80")),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x12, &TCP4), None),
            (v2(0x21, 0x31, &[0; 216]), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &TCP4), None),
            (v2(0x20, 0xff, &[1, 2, 3]), None),
        ] {
            assert_eq!(got(&header), Ok(client), "{header:?}");
        }
        for (header, error) in [
            (v2(0x11, 0x11, &TCP4), ProxyError::Version),
            (v2(0x22, 0x11, &TCP4), ProxyError::Version),
            (v2(0x21, 0x13, &TCP4), ProxyError::Family),
            (v2(0x21, 0x41, &TCP4), ProxyError::Family),
            (v2(0x21, 0x11, &TCP4[..11]), ProxyError::Short),
            (v2(0x21, 0x21, &TCP4), ProxyError::Short),
            (v2(0x21, 0x11, &[&TCP4[..], &[4, 0]].concat()), ProxyError::Short),
            (v2(0x21, 0x11, &[&TCP4[..], &[4, 0, 2, 0]].concat()), ProxyError::Short),
            (v2(0x21, 0x11, &[0; limits::PROXY_HEADER_MAX - 15]), ProxyError::TooLong),
        ] {
            assert_eq!(got(&header), Err(error), "{header:?}");
        }
    }

    #[test]
    fn a_checksum_counts_when_it_is_there() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283, "the check value of CRC-32C");
        let mut header = v2(0x21, 0x11, &[&TCP4[..], &[3, 0, 4, 0, 0, 0, 0]].concat());
        let crc = crc32c(header.iter().copied());
        let end = header.len();
        header[end - 4..].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(got(&header), Ok(address("192.0.2.1:8080")));
        // Without byte 28 there would be no checksum at all.
        for at in (16..end).filter(|at| *at != 28) {
            header[at] ^= 1;
            assert!(parse(&header).is_err(), "byte {at} is changed");
            header[at] ^= 1;
        }
        let short = v2(0x21, 0x11, &[&TCP4[..], &[3, 0, 1, 0]].concat());
        assert_eq!(got(&short), Err(ProxyError::Checksum));
    }

    #[test]
    fn nothing_else_looks_like_one() {
        for other in
            [&b"\x16\x03\x01"[..], b"GET / HTTP/1.1\r\n", b"PUT", b"POST /", b"PROXX", b"\r\n\r\nG", b"\r\nGET"]
        {
            assert_eq!(lead(other), Lead::Other, "{other:?}");
        }
        for part in [&b""[..], b"P", b"PROXY", b"\r", b"\r\n\r\n\0\r\nQUIT"] {
            assert_eq!(lead(part), Lead::Undecided, "{part:?}");
        }
    }
}
