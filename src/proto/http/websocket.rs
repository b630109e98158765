//! The opening handshake of a WebSocket (RFC 6455, section 4.2), which browsers and some proxies need for DERP.

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::head::Head;
use super::reply::Reply;

/// A handshake that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    accept: String,
    /// As the client spells it. `None`: it names something that only looks like DERP, and is told so once it is in.
    pub subprotocol: Option<String>,
}

impl Opening {
    /// The answer that turns the connection into a WebSocket. No extension is ever taken up: compressing what is
    /// encrypted gains nothing.
    pub fn answer(&self) -> Vec<u8> {
        let protocol = self.subprotocol.as_ref().map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{}\r\n",
            self.accept,
            protocol.unwrap_or_default()
        )
        .into_bytes()
    }
}

/// # Errors
/// The answer to a request that is no proper handshake. Conditions and codes are the reference's.
pub(super) fn open(head: &Head<'_>) -> Result<Opening, Reply> {
    if head.minor == 0 {
        return Err(Reply::text(426, "WebSocket needs HTTP/1.1"));
    }
    if !head.connection_upgrade {
        let reply = Reply::text(426, "WebSocket needs the header Connection: Upgrade");
        return Err(reply.header("Upgrade", "websocket").header("Connection", "Upgrade"));
    }
    if head.method != "GET" {
        return Err(Reply::text(405, "WebSocket needs the method GET"));
    }
    if head.websocket_version.map(<[u8]>::trim_ascii) != Some(b"13") {
        return Err(Reply::text(400, "only version 13 of WebSocket is spoken").header("Sec-WebSocket-Version", "13"));
    }
    let key = head.websocket_key.map(<[u8]>::trim_ascii).filter(|_| head.websocket_keys == 1);
    let Some(key) = key.filter(|key| BASE64_STANDARD.decode(key).is_ok_and(|raw| raw.len() == 16)) else {
        return Err(Reply::text(400, "WebSocket needs one Sec-WebSocket-Key of 16 bytes in base64"));
    };
    // Every origin is welcome: the key that a client proves is all that gives it anything here.
    if !head.origin.is_none_or(is_origin) {
        return Err(Reply::text(403, "the Origin is no URL"));
    }
    Ok(Opening { accept: accept(key), subprotocol: subprotocol(head) })
}

fn accept(key: &[u8]) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    BASE64_STANDARD.encode(hash.finish())
}

fn subprotocol(head: &Head<'_>) -> Option<String> {
    let offered = head.websocket_protocol.unwrap_or_default();
    let mut tokens = offered.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    tokens.find(|token| token.eq_ignore_ascii_case(b"derp")).map(|token| String::from_utf8_lossy(token).into_owned())
}

/// What a URL parser would stumble over; "null" is an origin too.
fn is_origin(origin: &[u8]) -> bool {
    let visible = origin.iter().all(|b| b.is_ascii_graphic());
    visible && !matches!(origin, [b':', ..]) && !origin.windows(2).any(|pair| pair == b"%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(request: &str) -> Result<Opening, String> {
        let head = Head::parse(request.as_bytes()).unwrap().expect("a whole head");
        open(&head).map_err(|reply| String::from_utf8(reply.encode(&head, true)).unwrap())
    }

    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn request(line: &str, headers: &str) -> String {
        format!("{line}\r\nHost: a\r\nUpgrade: websocket\r\n{headers}\r\n")
    }

    #[test]
    fn the_rfcs_own_example() {
        let headers = format!(
            "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n{KEY}\
             Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, DERP\r\n"
        );
        let opening = answer(&request("GET /derp HTTP/1.1", &headers)).unwrap();
        let text = String::from_utf8(opening.answer()).unwrap();
        assert!(text.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
        assert!(text.contains("\r\nSec-WebSocket-Protocol: DERP\r\n"), "as the client spells it: {text}");
    }

    #[test]
    fn no_token_no_protocol() {
        let headers =
            format!("Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n{KEY}Sec-WebSocket-Protocol: derpx\r\n");
        assert_eq!(answer(&request("GET /derp HTTP/1.1", &headers)).unwrap().subprotocol, None);
    }

    #[test]
    fn what_is_no_handshake_is_told_why() {
        let whole = format!("Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n{KEY}");
        for (line, headers, status) in [
            ("GET /derp HTTP/1.0", whole.clone(), "426 "),
            ("GET /derp HTTP/1.1", whole.replace("Connection: Upgrade", "Connection: close"), "426 "),
            ("POST /derp HTTP/1.1", whole.clone(), "405 "),
            ("GET /derp HTTP/1.1", whole.replace("13", "8"), "400 "),
            ("GET /derp HTTP/1.1", whole.replace("Sec-WebSocket-Version: 13\r\n", ""), "400 "),
            ("GET /derp HTTP/1.1", whole.replace(KEY, ""), "400 "),
            ("GET /derp HTTP/1.1", format!("{whole}{KEY}"), "400 "),
            ("GET /derp HTTP/1.1", whole.replace("==", ""), "400 "),
            ("GET /derp HTTP/1.1", whole.replace("dGhl", ""), "400 "),
            ("GET /derp HTTP/1.1", format!("{whole}Origin: a b\r\n"), "403 "),
        ] {
            let text = answer(&request(line, &headers)).unwrap_err();
            assert!(text["HTTP/1.1 ".len()..].starts_with(status), "{line} {headers}: {text}");
            let version = text.contains("\r\nSec-WebSocket-Version: 13\r\n");
            assert_eq!(version, text.contains("only version 13"), "{text}");
        }
    }
}
