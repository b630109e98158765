//! A request head, reduced to what any route asks for.

use super::HttpError;
use crate::limits;

#[derive(Debug)]
pub(super) struct Head<'b> {
    pub method: &'b str,
    pub target: &'b str,
    /// Minor version: 0 or 1.
    pub minor: u8,
    /// Bytes up to and including the blank line.
    pub len: usize,
    /// Of each of these the first value counts.
    pub upgrade: Option<&'b [u8]>,
    pub websocket_protocol: Option<&'b [u8]>,
    pub websocket_key: Option<&'b [u8]>,
    pub websocket_version: Option<&'b [u8]>,
    pub origin: Option<&'b [u8]>,
    pub fast_start: Option<&'b [u8]>,
    pub ideal_node: Option<&'b [u8]>,
    pub challenge: Option<&'b [u8]>,
    /// How often there is a Sec-WebSocket-Key.
    pub websocket_keys: u32,
    /// Connection names Upgrade.
    pub connection_upgrade: bool,
    /// What proxies say of the client, each line in its order.
    pub x_forwarded_for: Vec<&'b [u8]>,
    pub forwarded: Vec<&'b [u8]>,
    /// Fit for a Location: it is known to hold nothing but what a Host may.
    pub host: Option<&'b str>,
    hosts: u32,
    body: u64,
    has_body_length: bool,
    close: bool,
    keep_alive: bool,
    expects: bool,
}

impl<'b> Head<'b> {
    /// `None`: not complete yet.
    pub fn parse(buf: &'b [u8]) -> Result<Option<Self>, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; limits::HTTP_HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let len = match request.parse(buf) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HttpError::TooLarge),
            Err(httparse::Error::Version) => return Err(HttpError::Version),
            Err(_) => return Err(HttpError::Malformed),
        };
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(HttpError::Malformed);
        };
        let mut head = Self::bare(method, target, minor, len);
        for header in request.headers.iter() {
            head.take(header.name, header.value)?;
        }
        match (head.hosts, minor) {
            (0, 1) => return Err(HttpError::NoHost),
            (2.., _) => return Err(HttpError::Malformed),
            _ => {}
        }
        Ok(Some(head))
    }

    /// How much of the request's body is to be skipped before the next request; `None`: there can be no next one.
    pub fn skip(&self) -> Option<u64> {
        let persistent = !self.close && (self.minor == 1 || self.keep_alive);
        // Who expects a "continue" decides only now whether to send the body, so its end cannot be known.
        let bounded = self.body <= limits::HTTP_BODY_MAX && !(self.expects && self.body > 0);
        (persistent && bounded).then_some(self.body)
    }

    fn bare(method: &'b str, target: &'b str, minor: u8, len: usize) -> Self {
        Self {
            method,
            target,
            minor,
            len,
            upgrade: None,
            websocket_protocol: None,
            websocket_key: None,
            websocket_version: None,
            origin: None,
            fast_start: None,
            ideal_node: None,
            challenge: None,
            websocket_keys: 0,
            connection_upgrade: false,
            x_forwarded_for: Vec::new(),
            forwarded: Vec::new(),
            host: None,
            hosts: 0,
            body: 0,
            has_body_length: false,
            close: false,
            keep_alive: false,
            expects: false,
        }
    }

    fn take(&mut self, name: &str, value: &'b [u8]) -> Result<(), HttpError> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("Host") {
            self.hosts += 1;
            self.host = Some(host(value)?);
        } else if is("Upgrade") {
            self.upgrade.get_or_insert(value);
        } else if is("Derp-Fast-Start") {
            self.fast_start.get_or_insert(value);
        } else if is("Ideal-Node") {
            self.ideal_node.get_or_insert(value);
        } else if is("Sec-WebSocket-Protocol") {
            self.websocket_protocol.get_or_insert(value);
        } else if is("Sec-WebSocket-Key") {
            self.websocket_keys += 1;
            self.websocket_key = Some(value);
        } else if is("Sec-WebSocket-Version") {
            self.websocket_version.get_or_insert(value);
        } else if is("Origin") {
            self.origin.get_or_insert(value);
        } else if is("X-Tailscale-Challenge") {
            self.challenge.get_or_insert(value);
        } else if is("X-Forwarded-For") {
            self.x_forwarded_for.push(value);
        } else if is("Forwarded") {
            self.forwarded.push(value);
        } else if is("Connection") {
            for token in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                self.connection_upgrade |= token.eq_ignore_ascii_case(b"upgrade");
            }
        } else if is("Content-Length") {
            self.take_length(value)?;
        } else if is("Transfer-Encoding") {
            return Err(HttpError::Body);
        } else if is("Expect") {
            self.expects = true;
        }
        Ok(())
    }

    /// Digits only, and the same each time: two readers of one request must not see two bodies.
    fn take_length(&mut self, value: &[u8]) -> Result<(), HttpError> {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(value).ok().filter(|_| digits);
        let length = text.and_then(|t| t.parse().ok()).ok_or(HttpError::Malformed)?;
        if self.has_body_length && self.body != length {
            return Err(HttpError::Malformed);
        }
        self.has_body_length = true;
        self.body = length;
        Ok(())
    }
}

/// The characters that the reference takes; a Host may be empty.
pub(super) fn host(value: &[u8]) -> Result<&str, HttpError> {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"!$%&()*+,-.:;=['']_~".contains(b);
    let text = std::str::from_utf8(value).ok().filter(|text| text.as_bytes().iter().all(allowed));
    text.ok_or(HttpError::Host)
}
