//! Everything that is text: the HTTP head, the JSON inside ClientInfo, the key file, derper's command line.

use std::cell::LazyCell;
use std::fs;

use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use derpring::config::derper::{self, Host, Request};
use derpring::config::{DebugAccess, HomePage, TrustedProxies, keys};
use derpring::limits;
use derpring::proto::http::{self, Action, Challenge, Challenges, Door, Services, Site, Visitor};
use derpring::proto::key::to_hex;
use derpring::proto::login::{Keys, LoginError, client_info_len};
use tempfile::NamedTempFile;

use super::Choices;

/// A head is understood when its last byte has come and not before, and every answer is HTTP that others can read.
///
/// The input: what the request depends on besides its bytes, the request.
pub fn http_head(data: &[u8]) {
    let mut choices = Choices(data);
    let flags = choices.byte();
    let home = match flags >> 6 {
        0 => HomePage::Default,
        1 => HomePage::Blank,
        _ => HomePage::Redirect("https://example.com/".to_owned()),
    };
    let debug = DebugAccess { key_file: (flags & 8 == 8).then(|| "/nowhere".into()), ..DebugAccess::default() };
    let site = Site {
        home,
        debug: (flags & 1 == 1).then_some(debug),
        derp: flags & 16 == 0,
        connect: flags & 32 == 32,
        tailscales: flags & 32 == 32,
    };
    let ip = if flags & 2 == 2 { [127, 0, 0, 1] } else { [192, 0, 2, 1] };
    let more = choices.byte();
    let proxies = TrustedProxies { unix: more & 4 == 4, ..TrustedProxies::default() };
    let visitor = Visitor {
        address: (more & 4 == 0).then(|| (ip, 4242).into()),
        proxies: &proxies,
        door: if more & 1 == 1 { Door::Http } else { Door::Main { tls: more & 2 == 2 } },
        last: flags & 4 == 4,
    };
    let services = Services { challenges: (more & 8 == 8).then_some(&Foreign) };
    let request = choices.0;
    let understood = http::next(request, &site, services, visitor);
    match &understood {
        Ok(None) => assert!(request.len() < limits::HTTP_HEAD_MAX, "a head that never ends"),
        Ok(Some(exchange)) => {
            assert!((1..=request.len().min(limits::HTTP_HEAD_MAX)).contains(&exchange.head_len));
            let head = &request[..exchange.head_len];
            assert_eq!(http::next(head, &site, services, visitor), understood, "what follows a head does not matter");
            let before = http::next(&head[..head.len() - 1], &site, services, visitor);
            assert!(!matches!(before, Ok(Some(_))), "a head without its end");
            match &exchange.action {
                Action::Reply(answer) => check_answer(&answer.bytes, head, visitor.door),
                Action::Debug(debug) => {
                    check_answer(&debug.pending.whole(200, "text/plain", "page".to_owned()), head, visitor.door)
                }
                Action::BootstrapDns(_) | Action::Connect(..) | Action::Upgrade(_) => {}
            }
        }
        Err(error) => check_answer(&error.answer(), request, visitor.door),
    }
}

/// Asks for no certificates.
struct Foreign;

impl Challenges for Foreign {
    fn http01(&self, _: &str, token: &str) -> Challenge {
        if token.len().is_multiple_of(2) { Challenge::ForeignHost } else { Challenge::UnknownToken }
    }
}

/// One response to `asked`, of the length that it says.
fn check_answer(bytes: &[u8], asked: &[u8], door: Door) {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = response.parse(bytes) else {
        panic!("not an answer: {}", String::from_utf8_lossy(bytes));
    };
    let header = |name: &str| response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
    let length = header("Content-Length").map(|value| String::from_utf8_lossy(value).parse::<usize>());
    let body = bytes.len() - head;
    match length {
        Some(Ok(length)) => assert!(body == length || body == 0, "{length} bytes of body, and {body} came"),
        Some(Err(_)) => panic!("no length"),
        None => assert_eq!(body, 0, "a body of unknown length"),
    }
    if let Some(location) = header("Location") {
        // Plain HTTP beside TLS leads to the host that was asked for by HTTPS, and only there.
        let secure =
            door == Door::Http && location.strip_prefix(b"https://").is_some_and(|to| is_asked_host(to, asked));
        let away = secure || location.starts_with(b"https://example.com/");
        assert!(away || location.starts_with(b"/") && !location.starts_with(b"//"), "a link that leaves this host");
    }
}

/// Whether what stands in front of the path is a bare host, without a name to log in with, that the request has in it.
fn is_asked_host(to: &[u8], asked: &[u8]) -> bool {
    let host = to.split(|byte| *byte == b'/').next().unwrap_or_default();
    let bare = host.iter().all(|byte| byte.is_ascii_graphic() && !b"@\\?#<>\"".contains(byte));
    bare && !host.is_empty() && asked.windows(host.len()).any(|part| part.eq_ignore_ascii_case(host))
}

/// ClientInfo opens only with the client's key, and what is inside is either understood or refused.
///
/// The input: whether the rest is a frame or the JSON to be sealed, the rest.
pub fn client_info(data: &[u8]) {
    const CLIENT: [u8; 32] = [0x43; 32];
    thread_local! {
        static SERVER: LazyCell<(Keys, SalsaBox)> = LazyCell::new(|| {
            let keys = Keys::new([0x42; 32]);
            let sealer = SalsaBox::new(&PublicKey::from(keys.public().0), &SecretKey::from(CLIENT));
            (keys, sealer)
        });
    }
    let mut choices = Choices(data);
    let sealed = choices.byte() & 1 == 1;
    let rest = choices.0;
    SERVER.with(|server| {
        let (keys, sealer) = &**server;
        if !sealed {
            if let Ok(Some(len)) = client_info_len(rest, limits::MAX_CLIENT_INFO) {
                assert!((56..=limits::MAX_CLIENT_INFO).contains(&len));
            }
            // Nobody has sealed anything with the zero nonce.
            let _ = keys.open(rest.get(5..).unwrap_or(rest));
            return;
        }
        let nonce = [9; 24];
        let key = *SecretKey::from(CLIENT).public_key().as_bytes();
        let json = sealer.encrypt((&nonce).into(), rest).expect("short enough");
        let payload = [&key[..], &nonce, &json].concat();
        match keys.open(&payload) {
            Ok(login) => {
                assert_eq!(login.key.0, key);
                assert!(login.info.mesh_key.is_none() || rest.len() > 64, "a mesh key that nobody sent");
                assert!(!login.is_mesh(Some(&[0; 32])));
                assert_eq!(login.server_info_frame(nonce).len(), 5 + 24 + 16 + 13);
            }
            Err(LoginError::Json(_)) => {}
            Err(other) => panic!("what was sealed for us does not open: {other}"),
        }
    });
}

/// A key file is a key or an error that does not quote it.
pub fn key_file(data: &[u8]) {
    thread_local! {
        static FILE: LazyCell<NamedTempFile> = LazyCell::new(|| NamedTempFile::new().expect("a temporary file"));
    }
    // Long enough to be a part of a secret and of nothing that an error says by itself.
    const QUOTE: usize = 24;
    FILE.with(|file| {
        fs::write(file.path(), data).expect("the temporary file takes it");
        match keys::load(file.path()) {
            Ok(key) => {
                let text = String::from_utf8_lossy(data).to_lowercase();
                let hex = to_hex(key.as_bytes());
                assert!(text.contains(&hex) || text.contains("\\u"), "a key that is not in the file");
                assert!(!format!("{key:?}").contains(&hex), "a key that prints itself");
            }
            Err(error) => {
                let said = error.to_string();
                let secrets = data.split(|b| !b.is_ascii_hexdigit()).filter(|part| part.len() >= QUOTE);
                for secret in secrets {
                    assert!(!said.contains(&*String::from_utf8_lossy(secret)), "an error that quotes the file");
                }
            }
        }
    });
}

/// derper's command line: one argument a line. Only reading it: what flags ask for may be files of this machine.
pub fn go_flags(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // With `-version` nothing is done but reading, unless the input takes it back.
    if text.contains("version") {
        return;
    }
    let mut args = vec!["-version".to_owned()];
    args.extend(text.lines().map(str::to_owned));
    let host = Host { env: &|_| None, names: &[], exists: &|_| false, root: false };
    match derper::read(&args, &host) {
        Ok(Request::Version) => {
            let flags = args.iter().filter(|arg| arg.starts_with('-')).count();
            assert!(flags * 2 >= args.len() - usize::from(args.last().is_some_and(|arg| arg == "--")));
        }
        Ok(Request::Serve(_)) => panic!("-version was given"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
