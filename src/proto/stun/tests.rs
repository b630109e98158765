use super::*;

/// A request of Tailscale's client, and the answer that it wants.
const TAILNODE_REQUEST: &str = "000100142112a442000102030405060708090a0b802200087461696c6e6f6465802800048aabad90";
const TAILNODE_ANSWER: &str = "0101000c2112a442000102030405060708090a0b002000080001eb7eea12d545";

/// RFC 5769, 2.1: a check of ICE, with PRIORITY, which a plain server does not know.
const RFC_5769_REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae\
    802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36\
    000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
const RFC_5769_ID: &str = "b7e7a701bc34d686fa87dfae";

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ask(datagram: &[u8], from: &str, clients: Clients) -> Option<(Vec<u8>, Outcome)> {
    let mut out = [0xee; STUN_ANSWER_MAX];
    let (len, outcome) = answer(datagram, from.parse().unwrap(), clients, &mut out)?;
    assert!(out[len..].iter().all(|byte| *byte == 0xee), "nothing is written behind the answer");
    Some((out[..len].to_vec(), outcome))
}

/// A request of the RFC, with the length that it has.
fn request(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = unhex("000100002112a442b7e7a701bc34d686fa87dfae");
    for (kind, value) in attributes {
        out.extend(kind.to_be_bytes());
        out.extend((value.len() as u16).to_be_bytes());
        out.extend(*value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    let len = out.len() - HEADER;
    out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    out
}

/// The same with a FINGERPRINT at its end.
fn sealed(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = request(&[attributes, &[(FINGERPRINT, &[0; 4])]].concat());
    let end = out.len() - FINGERPRINT_LEN;
    let value = fingerprint(&out[..end]).to_be_bytes();
    out[end + 4..].copy_from_slice(&value);
    out
}

const NEAR: &str = "203.0.113.7:51820";

#[test]
fn the_clients_of_tailscale_are_answered_as_they_want_it() {
    let question = unhex(TAILNODE_REQUEST);
    for clients in [Clients::Tailscale, Clients::Any] {
        let (answer, outcome) = ask(&question, NEAR, clients).unwrap();
        assert_eq!((hex(&answer).as_str(), outcome), (TAILNODE_ANSWER, Outcome::Mapped));
        // What a socket of both families says for the same.
        let (mapped, _) = ask(&question, "[::ffff:203.0.113.7]:51820", clients).unwrap();
        assert_eq!(hex(&mapped), TAILNODE_ANSWER, "family 1 whatever the socket");
        let (v6, _) = ask(&question, "[2001:db8::7]:51820", clients).unwrap();
        assert_eq!(hex(&v6[..28]), "010100182112a442000102030405060708090a0b002000140002eb7e");
        assert_eq!(v6.len(), 44);
    }
}

#[test]
fn the_length_in_the_head_does_not_matter_to_tailscales_form() {
    let mut question = unhex(TAILNODE_REQUEST);
    question[2..4].copy_from_slice(&[0xab, 0xcd]);
    let end = question.len() - FINGERPRINT_LEN;
    let value = fingerprint(&question[..end]).to_be_bytes();
    question[end + 4..].copy_from_slice(&value);
    assert!(ask(&question, NEAR, Clients::Tailscale).is_some());
    assert!(ask(&question, NEAR, Clients::Any).is_some());
}

#[test]
fn who_does_not_say_tailnode_gets_nothing_unless_anybody_may_ask() {
    for question in [
        request(&[]),
        request(&[(SOFTWARE, TAILNODE)]),
        sealed(&[]),
        sealed(&[(SOFTWARE, b"tailnodf")]),
        sealed(&[(SOFTWARE, b"tailnode ")]),
    ] {
        assert_eq!(ask(&question, NEAR, Clients::Tailscale), None, "{}", hex(&question));
        assert!(ask(&question, NEAR, Clients::Any).is_some(), "{}", hex(&question));
    }
}

#[test]
fn the_answers_of_rfc_5769() {
    let attribute = |from| hex(&ask(&request(&[]), from, Clients::Any).unwrap().0[HEADER..]);
    assert_eq!(attribute("192.0.2.1:32853"), "002000080001a147e112a643");
    assert_eq!(
        attribute("[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
        "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    );
}

#[test]
fn what_must_be_understood_and_is_not_is_named() {
    let (answer, outcome) = ask(&unhex(RFC_5769_REQUEST), NEAR, Clients::Any).unwrap();
    assert_eq!(outcome, Outcome::Refused);
    let end = answer.len() - FINGERPRINT_LEN;
    let wanted = format!("011100202112a442{RFC_5769_ID}0009000b00000414556e6b6e6f776e00000a000200240000");
    assert_eq!(hex(&answer[..end]), wanted);
    let seal = format!("80280004{:08x}", fingerprint(&answer[..end]));
    assert_eq!(hex(&answer[end..]), seal, "it was asked with a fingerprint");

    // CHANGE-REQUEST, RESPONSE-PORT, PADDING: nobody is answered elsewhere, or with more than is needed.
    let swelling = [0; 400];
    let question = request(&[(0x0003, &[0, 0, 0, 6]), (0x0027, &[0, 53, 0, 0]), (0x0026, &swelling)]);
    let (answer, outcome) = ask(&question, NEAR, Clients::Any).unwrap();
    assert_eq!(outcome, Outcome::Refused);
    assert_eq!(hex(&answer[answer.len() - 12..]), "000a0006000300270026 0000".replace(' ', ""));
}

#[test]
fn what_may_be_ignored_is_and_so_is_what_is_behind_a_signature() {
    let signature = [7; 20];
    for question in [
        request(&[(0x8029, &[1; 8]), (0xc001, &[2; 5]), (SOFTWARE, b"any")]),
        request(&[(USERNAME, b"me"), (REALM, b"here"), (NONCE, b"n"), (MESSAGE_INTEGRITY, &signature)]),
        request(&[(MESSAGE_INTEGRITY, &signature), (0x0003, &[0, 0, 0, 6])]),
        request(&[(MESSAGE_INTEGRITY_SHA256, &[7; 32]), (0x7fff, b"")]),
        // Known, and none of a request's: RFC 8489 ignores them.
        request(&[(MAPPED_ADDRESS, &[0, 1, 0, 1, 1, 2, 3, 4]), (ERROR_CODE, &[0; 4]), (UNKNOWN_ATTRIBUTES, &[0; 2])]),
    ] {
        let (answer, outcome) = ask(&question, NEAR, Clients::Any).unwrap();
        assert_eq!((answer.len(), outcome), (32, Outcome::Mapped), "{}", hex(&question));
    }
}

#[test]
fn a_fingerprint_is_checked_and_answered_with_one() {
    let question = sealed(&[(USERNAME, b"me")]);
    let (answer, _) = ask(&question, NEAR, Clients::Any).unwrap();
    assert_eq!(answer.len(), 40);
    assert!(is_sealed(&answer), "{}", hex(&answer));
    for at in 0..question.len() {
        let mut changed = question.clone();
        changed[at] ^= 1;
        let understood = ask(&changed, NEAR, Clients::Any);
        // The one byte whose change turns the attribute into another, which may be ignored.
        let forgotten = at == question.len() - FINGERPRINT_LEN || at == question.len() - FINGERPRINT_LEN + 1;
        assert_eq!(understood.is_some(), forgotten, "byte {at}");
    }
    let twice = request(&[(FINGERPRINT, &[0; 4]), (USERNAME, b"me")]);
    assert_eq!(ask(&twice, NEAR, Clients::Any), None, "it must be the last");
    let long = request(&[(FINGERPRINT, &[0; 8])]);
    assert_eq!(ask(&long, NEAR, Clients::Any), None, "it has four bytes");
}

#[test]
fn what_is_no_request_is_not_answered() {
    let good = unhex(TAILNODE_REQUEST);
    for len in 0..good.len() {
        for clients in [Clients::Tailscale, Clients::Any] {
            assert_eq!(ask(&good[..len], NEAR, clients), None, "{len} bytes");
        }
    }
    let mut whole = request(&[]);
    assert!(ask(&whole, NEAR, Clients::Any).is_some());
    whole.push(0);
    assert_eq!(ask(&whole, NEAR, Clients::Any), None, "a byte too many");
    // An indication, our own two answers, another method, a classic request without the cookie.
    for (at, bytes) in [(0, [0x00, 0x11]), (0, SUCCESS), (0, ERROR), (0, [0, 3]), (0, [0x40, 1]), (4, [0x21, 0x13])] {
        for clients in [Clients::Tailscale, Clients::Any] {
            let mut other = good.clone();
            other[at..at + 2].copy_from_slice(&bytes);
            let end = other.len() - FINGERPRINT_LEN;
            let value = fingerprint(&other[..end]).to_be_bytes();
            other[end + 4..].copy_from_slice(&value);
            assert_eq!(ask(&other, NEAR, clients), None, "{}", hex(&other));
        }
    }
}

/// Requests of every make: nobody who forges an address gets more out of us than he puts in and the few bytes that are
/// promised, and whatever Tailscale's form is answered with does not depend on who else may ask.
#[test]
fn an_answer_is_never_much_longer_than_its_question() {
    let mut random = Random(1);
    let kinds = [0x0001, 0x0003, 0x0006, 0x0008, 0x0024, 0x0026, 0x0027, 0x7ffe, SOFTWARE, FINGERPRINT, 0x802b];
    let (mut mapped, mut refused, mut most) = (0, 0, 0);
    for _ in 0..20_000 {
        let values: Vec<Vec<u8>> =
            (0..random.below(24)).map(|_| vec![random.below(256) as u8; random.below(9)]).collect();
        let mut attributes: Vec<(u16, &[u8])> =
            values.iter().map(|value| (kinds[random.below(kinds.len())], value.as_slice())).collect();
        if random.below(3) == 0 {
            attributes.push((SOFTWARE, TAILNODE));
        }
        let question = if random.below(2) == 0 { request(&attributes) } else { sealed(&attributes) };
        let from = if random.below(2) == 0 { NEAR } else { "[2001:db8::7]:9" };
        let any = ask(&question, from, Clients::Any);
        if let Some(strict) = ask(&question, from, Clients::Tailscale) {
            assert_eq!(any.as_ref(), Some(&strict));
        }
        let Some((answer, outcome)) = any else { continue };
        assert!(answer.len() <= question.len() + GROWTH_MAX, "{} for {}", hex(&answer), hex(&question));
        assert_eq!(answer[4..HEADER], question[4..HEADER]);
        assert_eq!(usize::from(u16::from_be_bytes([answer[2], answer[3]])), answer.len() - HEADER);
        most = most.max(answer.len() - question.len().min(answer.len()));
        match outcome {
            Outcome::Mapped => mapped += 1,
            Outcome::Refused => refused += 1,
        }
    }
    assert!(mapped > 500 && refused > 500, "{mapped} and {refused}");
    assert_eq!(most, GROWTH_MAX, "the bound is what is reached");
    let many: Vec<(u16, &[u8])> = (0..200).map(|at| (0x4000 + at, &b""[..])).collect();
    assert_eq!(ask(&sealed(&many), NEAR, Clients::Any).unwrap().0.len(), STUN_ANSWER_MAX, "a refusal has its end");
}

/// Xorshift: any spread will do.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % bound
    }
}

#[test]
fn crc_is_that_of_everybody() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    assert_eq!(crc32(b""), 0);
}
