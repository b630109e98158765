use super::*;

const KEY: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

/// A client's frame, in bytes of its own.
fn client(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        n @ 0..=125 => frame.push(0x80 | n as u8),
        n @ 126..=65535 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&KEY);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ KEY[at % 4]));
    frame
}

/// All payload that comes out of `input` in pieces of `size`, what was answered to pings, and how it ended.
fn run(input: &[u8], size: usize) -> (Vec<u8>, Vec<Vec<u8>>, Option<Step>) {
    let mut unframer = Unframer::default();
    let (mut data, mut pongs) = (Vec::new(), Vec::new());
    for piece in input.chunks(size) {
        let mut piece = piece.to_vec();
        let mut at = 0;
        loop {
            match unframer.next(&mut piece, at) {
                Step::Data { start, end } => {
                    assert!(start < end, "nothing is handed out twice, and nothing empty");
                    data.extend_from_slice(&piece[start..end]);
                    at = end;
                }
                Step::Ping { used } => {
                    pongs.push(unframer.pong().to_vec());
                    at = used;
                }
                Step::Need => break,
                end => return (data, pongs, Some(end)),
            }
        }
    }
    (data, pongs, None)
}

#[test]
fn payload_comes_out_however_it_is_cut() {
    let body: Vec<u8> = (0..70_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let input = [
        client(0x82, &body[..1]),
        client(0x82, &body[1..126]),
        client(0x89, b"are you there?"),
        client(0x02, &body[126..300]),
        client(0x8a, b"nobody asked"),
        client(0x00, b""),
        client(0x89, b""),
        client(0x80, &body[300..4000]),
        client(0x82, b""),
        client(0x82, &body[4000..]),
    ]
    .concat();
    for size in [1, 2, 3, 5, 7, 13, 31, 64, 1000, 1 << 20] {
        let (data, pongs, end) = run(&input, size);
        assert!(data == body, "in pieces of {size}");
        assert_eq!(end, None);
        assert_eq!(pongs, [&b"\x8a\x0eare you there?"[..], b"\x8a\x00"]);
    }
}

#[test]
fn a_client_that_breaks_the_rules_is_told_which() {
    use CloseCode::{InvalidPayload, ProtocolError, TooBig, Unsupported};
    let fragmented = |then: Vec<u8>| [client(0x02, b"begin"), then].concat();
    for (input, code, what) in [
        (client(0x81, b"text"), Unsupported, "text"),
        (client(0x01, b"text"), Unsupported, "fragmented text"),
        (vec![0x82, 3, 1, 2, 3], ProtocolError, "no mask"),
        (client(0xc2, b"x"), ProtocolError, "RSV1"),
        (client(0xa2, b"x"), ProtocolError, "RSV2"),
        (client(0x92, b"x"), ProtocolError, "RSV3"),
        (client(0x83, b"x"), ProtocolError, "opcode 3"),
        (client(0x8b, b"x"), ProtocolError, "opcode 11"),
        (client(0x80, b"x"), ProtocolError, "continuation of nothing"),
        (fragmented(client(0x82, b"x")), ProtocolError, "a message inside a message"),
        (fragmented(client(0x81, b"x")), ProtocolError, "text inside a message"),
        (client(0x09, b"x"), ProtocolError, "a ping in parts"),
        (client(0x89, &[0; 126]), ProtocolError, "a long ping"),
        (client(0x88, &[0; 126]), ProtocolError, "a long close"),
        (client(0x88, &[3]), ProtocolError, "half a close code"),
        (client(0x88, b"\x03\xe8\xed\xa0\x80"), InvalidPayload, "a reason that is not UTF-8"),
        (client(0x88, &999_u16.to_be_bytes()), ProtocolError, "close code 999"),
        (client(0x88, &1005_u16.to_be_bytes()), ProtocolError, "close code 1005"),
        (client(0x88, &1006_u16.to_be_bytes()), ProtocolError, "close code 1006"),
        (client(0x88, &5000_u16.to_be_bytes()), ProtocolError, "close code 5000"),
        ([&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &KEY].concat(), TooBig, "a length of 2^63"),
        ([&[0x82, 0xff][..], &[0xff; 8], &KEY].concat(), TooBig, "the longest length"),
        ([&[0x82, 0xff, 0, 0, 0, 0, 0, 2, 0, 1][..], &KEY].concat(), TooBig, "128 KiB and one byte"),
    ] {
        for size in [1, 1 << 20] {
            assert_eq!(run(&input, size).2, Some(Step::Forbidden(code)), "{what}, in pieces of {size}");
        }
    }
}

#[test]
fn a_message_is_measured_as_a_whole() {
    let half = vec![7; WEBSOCKET_MESSAGE_MAX / 2];
    let whole = [client(0x02, &half), client(0x80, &half)].concat();
    let (data, _, end) = run(&whole, 4096);
    assert_eq!((data.len(), end), (WEBSOCKET_MESSAGE_MAX, None));
    let over = [client(0x02, &half), client(0x00, &half), client(0x00, b""), client(0x80, b"!")].concat();
    assert_eq!(run(&over, 4096).2, Some(Step::Forbidden(CloseCode::TooBig)));
    let again = [client(0x82, &half), client(0x82, &half), client(0x82, &half)].concat();
    assert_eq!(run(&again, 4096).2, None, "each message counts by itself");
}

#[test]
fn a_wrong_frame_is_known_before_its_end() {
    let mut unframer = Unframer::default();
    assert_eq!(unframer.next(&mut [0x81, 0xfe], 0), Step::Forbidden(CloseCode::Unsupported));
}

#[test]
fn closing_is_answered_in_kind() {
    assert_eq!(run(&client(0x88, b""), 1).2, Some(Step::Closed { code: None }));
    let with = [&1000_u16.to_be_bytes()[..], b"bye"].concat();
    assert_eq!(run(&client(0x88, &with), 3).2, Some(Step::Closed { code: Some(1000) }));
    assert_eq!(close(Some(1000)), [0x88, 2, 3, 0xe8]);
    assert_eq!(close(None), [0x88, 0]);
}

#[test]
fn our_headers_are_of_the_shortest_form() {
    for (len, expected) in [
        (0, &[0x82, 0][..]),
        (125, &[0x82, 125]),
        (126, &[0x82, 126, 0, 126]),
        (16_380, &[0x82, 126, 0x3f, 0xfc]),
        (65_535, &[0x82, 126, 0xff, 0xff]),
    ] {
        let (bytes, used) = header(len);
        assert_eq!(&bytes[..used], expected);
    }
}
