//! From the first byte to ServerInfo: HTTP upgrade, keys, proof of identity.

use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};

use super::frame::{Deframer, FrameTooLong, KEY_LEN, MAGIC, header, kind};
use super::ws::{self, WebSocket, WsError};

const NONCE_LEN: usize = 24;
/// A longer HTTP answer is not one of a relay.
const MAX_HEAD: usize = 16 * 1024;
const CLIENT_INFO: &[u8] = br#"{"version":2,"CanAckPings":true}"#;

/// A node key of our own.
#[derive(Clone)]
pub struct Identity {
    secret: SecretKey,
    pub public: [u8; KEY_LEN],
}

impl Identity {
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; KEY_LEN];
        getrandom::fill(&mut bytes)?;
        let secret = SecretKey::from(bytes);
        let public = *secret.public_key().as_bytes();
        Ok(Self { secret, public })
    }
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LoginError {
    #[error("the relay did not upgrade: {0} (is the path of --url right?)")]
    NotUpgraded(String),
    #[error("the answer to the upgrade is not HTTP: is this a DERP relay?")]
    NotHttp,
    #[error("the first frame has type {0:#04x} where the relay's key belongs")]
    NoServerKey(u8),
    #[error("the relay's key differs from the one in its certificate chain")]
    KeyMismatch,
    #[error("the frame after the login has type {0:#04x} where ServerInfo belongs")]
    NoServerInfo(u8),
    #[error("ServerInfo does not open: the relay does not hold the key it announced")]
    ForgedServerInfo,
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
    #[error("the relay's answer to the WebSocket key is wrong or missing: does a proxy answer in its place?")]
    WrongAccept,
    #[error("the relay upgraded to a WebSocket without the subprotocol `derp`")]
    NoSubprotocol,
    #[error(transparent)]
    Frame(#[from] FrameTooLong),
    #[error(transparent)]
    WebSocket(#[from] WsError),
}

/// How the byte stream is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Upgrade {
    Derp,
    /// The relay's key was announced by its certificate chain: no answer is waited for.
    FastStart([u8; KEY_LEN]),
    WebSocket,
}

/// A login in progress: bytes of the relay in, bytes for the relay out.
pub struct Login {
    identity: Identity,
    /// Announced ahead by the certificate chain; then ClientInfo has left with the request.
    fast_key: Option<[u8; KEY_LEN]>,
    head: Vec<u8>,
    deframer: Deframer,
    /// The connection under the frames, and the answer to its key.
    websocket: Option<(WebSocket, String)>,
    step: Step,
}

enum Step {
    Head,
    ServerKey,
    ServerInfo(Box<SalsaBox>),
    Done,
}

impl Login {
    /// Appends the request to `out`, with ClientInfo behind it if the relay's key is known.
    pub fn start(
        identity: Identity,
        authority: &str,
        path: &str,
        upgrade: Upgrade,
        out: &mut Vec<u8>,
    ) -> Result<Self, LoginError> {
        let mut login = Self {
            identity,
            fast_key: None,
            head: Vec::new(),
            deframer: Deframer::default(),
            websocket: None,
            step: Step::Head,
        };
        let headers = match upgrade {
            Upgrade::Derp => "Upgrade: DERP\r\n".into(),
            Upgrade::FastStart(_) => "Upgrade: DERP\r\nDerp-Fast-Start: 1\r\n".into(),
            Upgrade::WebSocket => {
                let key = ws::key().map_err(LoginError::Random)?;
                login.websocket = Some((WebSocket::new().map_err(LoginError::Random)?, ws::accept(&key)));
                format!(
                    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: derp\r\n\
                     Sec-WebSocket-Key: {key}\r\n"
                )
            }
        };
        out.extend_from_slice(
            format!(
                "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: derpring-loadgen\r\n\
                 Connection: Upgrade\r\n{headers}\r\n"
            )
            .as_bytes(),
        );
        if let Upgrade::FastStart(key) = upgrade {
            login.fast_key = Some(key);
            login.step = Step::ServerKey;
            // The box is made again when ServerKey arrives; only this rare path pays for it twice.
            login.client_info(&key, out)?;
        }
        Ok(login)
    }

    /// True when the login is complete.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<bool, LoginError> {
        let mut rest = bytes;
        let head;
        if matches!(self.step, Step::Head) {
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|w| w == b"\r\n\r\n") else {
                if self.head.len() > MAX_HEAD || !b"HTTP/".starts_with(&self.head[..self.head.len().min(5)]) {
                    return Err(LoginError::NotHttp);
                }
                return Ok(false);
            };
            head = std::mem::take(&mut self.head);
            check_head(&head[..end], self.websocket.as_ref().map(|(_, accept)| accept.as_str()))?;
            self.step = Step::ServerKey;
            rest = &head[end + 4..];
        }
        let mut deframer = std::mem::take(&mut self.deframer);
        if let Some((mut websocket, accept)) = self.websocket.take() {
            let mut reply = Vec::new();
            websocket
                .open(rest, |stream| deframer.feed(stream, |kind, payload| self.on_frame(kind, payload, &mut reply)))?;
            websocket.seal(&mut reply, |piece| out.extend_from_slice(piece));
            self.websocket = Some((websocket, accept));
        } else {
            deframer.feed(rest, |kind, payload| self.on_frame(kind, payload, out))?;
        }
        self.deframer = deframer;
        Ok(matches!(self.step, Step::Done))
    }

    /// Hold the parts of frames that came with the end of the login, if any.
    pub fn into_parts(self) -> (Deframer, Option<WebSocket>) {
        (self.deframer, self.websocket.map(|(websocket, _)| websocket))
    }

    pub fn waiting_for(&self) -> &'static str {
        match self.step {
            Step::Head => "waiting for the answer to the upgrade",
            Step::ServerKey => "waiting for the relay's key",
            Step::ServerInfo(_) => "waiting for ServerInfo",
            Step::Done => "logged in",
        }
    }

    fn on_frame(&mut self, kind: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<(), LoginError> {
        match &self.step {
            Step::Head => unreachable!("frames are cut only after the head"),
            Step::ServerKey => {
                let key = server_key(kind, payload)?;
                let sealed = match self.fast_key {
                    Some(fast) if fast != key => return Err(LoginError::KeyMismatch),
                    Some(_) => self.salsa_box(&key),
                    None => self.client_info(&key, out)?,
                };
                self.step = Step::ServerInfo(Box::new(sealed));
            }
            Step::ServerInfo(key_box) => {
                if kind != kind::SERVER_INFO {
                    return Err(LoginError::NoServerInfo(kind));
                }
                let (nonce, sealed) = payload.split_first_chunk::<NONCE_LEN>().ok_or(LoginError::ForgedServerInfo)?;
                key_box.decrypt(nonce.into(), sealed).map_err(|_| LoginError::ForgedServerInfo)?;
                self.step = Step::Done;
            }
            // Whatever already follows the login (keep-alives) needs no answer.
            Step::Done => {}
        }
        Ok(())
    }

    fn client_info(&self, key: &[u8; KEY_LEN], out: &mut Vec<u8>) -> Result<SalsaBox, LoginError> {
        let key_box = self.salsa_box(key);
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(LoginError::Random)?;
        let sealed = key_box.encrypt((&nonce).into(), CLIENT_INFO).expect("a short message always fits into a box");
        out.extend_from_slice(&header(kind::CLIENT_INFO, KEY_LEN + NONCE_LEN + sealed.len()));
        out.extend_from_slice(&self.identity.public);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(key_box)
    }

    fn salsa_box(&self, key: &[u8; KEY_LEN]) -> SalsaBox {
        SalsaBox::new(&PublicKey::from(*key), &self.identity.secret)
    }
}

/// `accept` is the answer to the key of a WebSocket.
fn check_head(head: &[u8], accept: Option<&str>) -> Result<(), LoginError> {
    let text = String::from_utf8_lossy(head);
    let (line, headers) = text.split_once("\r\n").unwrap_or((&text, ""));
    match line.split(' ').nth(1) {
        Some("101") => {}
        Some(_) => return Err(LoginError::NotUpgraded(line.escape_debug().to_string())),
        None => return Err(LoginError::NotHttp),
    }
    let value = |name: &str| {
        let mut headers = headers.split("\r\n").filter_map(|header| header.split_once(':'));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    match accept {
        Some(accept) if value("Sec-WebSocket-Accept") != Some(accept) => Err(LoginError::WrongAccept),
        Some(_) if value("Sec-WebSocket-Protocol") != Some("derp") => Err(LoginError::NoSubprotocol),
        _ => Ok(()),
    }
}

fn server_key(kind: u8, payload: &[u8]) -> Result<[u8; KEY_LEN], LoginError> {
    let key = payload.strip_prefix(&MAGIC).and_then(|rest| rest.first_chunk()).filter(|_| kind == kind::SERVER_KEY);
    key.copied().ok_or(LoginError::NoServerKey(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\n\r\n";

    struct Relay {
        identity: Identity,
    }

    impl Relay {
        fn greeting(&self) -> Vec<u8> {
            let mut bytes = header(kind::SERVER_KEY, 40).to_vec();
            bytes.extend_from_slice(&MAGIC);
            bytes.extend_from_slice(&self.identity.public);
            bytes
        }

        /// Opens ClientInfo and answers with ServerInfo and a keep-alive.
        fn accept(&self, client_info: &[u8]) -> Vec<u8> {
            assert_eq!(client_info[0], kind::CLIENT_INFO);
            let (key, rest) = client_info[5..].split_first_chunk::<32>().unwrap();
            let (nonce, sealed) = rest.split_first_chunk::<24>().unwrap();
            let key_box = SalsaBox::new(&PublicKey::from(*key), &self.identity.secret);
            assert_eq!(key_box.decrypt(nonce.into(), sealed).unwrap(), CLIENT_INFO);
            let sealed = key_box.encrypt(nonce.into(), &b"{\"version\":2}"[..]).unwrap();
            let mut bytes = header(kind::SERVER_INFO, 24 + sealed.len()).to_vec();
            bytes.extend_from_slice(nonce);
            bytes.extend_from_slice(&sealed);
            bytes.extend_from_slice(&header(kind::KEEP_ALIVE, 0));
            bytes
        }
    }

    fn start(fast: Option<[u8; 32]>) -> (Login, Vec<u8>) {
        let mut out = Vec::new();
        let identity = Identity::random().unwrap();
        let upgrade = fast.map_or(Upgrade::Derp, Upgrade::FastStart);
        let login = Login::start(identity, "derp.test", "/derp", upgrade, &mut out).unwrap();
        (login, out)
    }

    #[test]
    fn ordinary_login_with_the_answers_cut_at_every_byte() {
        let relay = Relay { identity: Identity::random().unwrap() };
        let first = [ANSWER, &relay.greeting()].concat();
        for cut in 0..=first.len() {
            let (mut login, request) = start(None);
            assert!(request.starts_with(b"GET /derp HTTP/1.1\r\nHost: derp.test\r\n"));
            let mut out = Vec::new();
            assert!(!login.feed(&first[..cut], &mut out).unwrap());
            assert!(!login.feed(&first[cut..], &mut out).unwrap());
            let second = relay.accept(&out);
            out.clear();
            let at = cut.min(second.len() - 6);
            assert!(!login.feed(&second[..at], &mut out).unwrap());
            assert!(login.feed(&second[at..], &mut out).unwrap());
            assert!(out.is_empty());
        }
    }

    #[test]
    fn fast_start_sends_client_info_with_the_request() {
        let relay = Relay { identity: Identity::random().unwrap() };
        let (mut login, out) = start(Some(relay.identity.public));
        let end = out.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert!(String::from_utf8_lossy(&out[..end]).contains("Derp-Fast-Start: 1"));
        let answer = [relay.greeting(), relay.accept(&out[end..])].concat();
        assert!(login.feed(&answer, &mut Vec::new()).unwrap());
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let relay = Relay { identity: Identity::random().unwrap() };
        let feed = |fast, bytes: &[u8]| start(fast).0.feed(bytes, &mut Vec::new()).unwrap_err();
        assert_eq!(
            feed(None, b"HTTP/1.1 426 Upgrade Required\r\n\r\n"),
            LoginError::NotUpgraded("HTTP/1.1 426 Upgrade Required".into())
        );
        assert_eq!(feed(None, b"\x15\x03\x01\x00\x02"), LoginError::NotHttp);
        assert_eq!(feed(None, &[ANSWER, &header(kind::PING, 0)].concat()), LoginError::NoServerKey(kind::PING));
        assert_eq!(feed(Some([9; 32]), &relay.greeting()), LoginError::KeyMismatch);
        let forged = [relay.greeting(), header(kind::SERVER_INFO, 40).to_vec(), vec![0; 40]].concat();
        assert_eq!(feed(Some(relay.identity.public), &forged), LoginError::ForgedServerInfo);
    }

    #[test]
    fn a_websocket_needs_the_right_answer() {
        let answer = |headers: &dyn Fn(&str) -> String| {
            let mut out = Vec::new();
            let identity = Identity::random().unwrap();
            let mut login = Login::start(identity, "derp.test", "/derp", Upgrade::WebSocket, &mut out).unwrap();
            let request = String::from_utf8(out).unwrap();
            assert!(request.contains("\r\nSec-WebSocket-Protocol: derp\r\n"));
            let (_, key) = request.split_once("Sec-WebSocket-Key: ").unwrap();
            let head = format!("HTTP/1.1 101 x\r\n{}\r\n\r\n", headers(key.lines().next().unwrap()));
            login.feed(head.as_bytes(), &mut Vec::new())
        };
        let good = |key: &str| format!("sec-websocket-accept: {}\r\nSec-WebSocket-Protocol: derp", ws::accept(key));
        assert_eq!(answer(&good), Ok(false));
        assert_eq!(answer(&|_| good("another")), Err(LoginError::WrongAccept));
        assert_eq!(answer(&|_| "Upgrade: DERP".into()), Err(LoginError::WrongAccept));
        let bare = |key: &str| format!("Sec-WebSocket-Accept: {}", ws::accept(key));
        assert_eq!(answer(&bare), Err(LoginError::NoSubprotocol));
    }
}
