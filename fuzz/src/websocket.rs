//! The unframer of WebSockets against a model that has the whole stream at once.

use derpring::limits::WEBSOCKET_MESSAGE_MAX;
use derpring::proto::ws::{CloseCode, Step, Unframer};

use super::Choices;

/// What a stream of frames says, wherever it is cut.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    data: Vec<u8>,
    pings: Vec<Vec<u8>>,
    end: Option<End>,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed(Option<u16>),
    Forbidden(CloseCode),
}

/// The same payload, pings and end come out whatever the places at which the stream is cut.
///
/// The input: how many cuts, the cuts, the stream.
pub fn websocket(data: &[u8]) {
    let mut choices = Choices(data);
    let cuts = choices.byte() % 8;
    let cuts: Vec<usize> = (0..cuts).map(|_| choices.word()).collect();
    let stream = choices.0;
    let expected = model(stream);
    assert_eq!(cut(&[stream]), expected, "in one piece");
    let ones: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(cut(&ones), expected, "byte by byte");
    let mut pieces = Vec::new();
    let mut rest = stream;
    for at in cuts {
        let (piece, behind) = rest.split_at(at.min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    assert_eq!(cut(&pieces), expected, "in pieces");
}

fn cut(pieces: &[&[u8]]) -> Said {
    let mut unframer = Unframer::default();
    let mut said = Said::default();
    for piece in pieces {
        let mut input = piece.to_vec();
        let mut at = 0;
        loop {
            let before = at;
            match unframer.next(&mut input, at) {
                Step::Data { start, end } => {
                    assert!(before <= start && start < end && end <= input.len(), "a part of the input, and not none");
                    said.data.extend_from_slice(&input[start..end]);
                    at = end;
                }
                Step::Ping { used } => {
                    assert!(unframer.owes_pong() && used > before && used <= input.len());
                    let pong = unframer.pong();
                    assert!(pong[0] == 0x8a && usize::from(pong[1]) == pong.len() - 2, "a whole frame");
                    said.pings.push(pong[2..].to_vec());
                    unframer.forget_pong();
                    at = used;
                }
                Step::Need => break,
                Step::Closed { code } => {
                    said.end = Some(End::Closed(code));
                    return said;
                }
                Step::Forbidden(code) => {
                    said.end = Some(End::Forbidden(code));
                    return said;
                }
            }
        }
    }
    said
}

/// Reads frame by frame, as the RFC draws them.
fn model(mut stream: &[u8]) -> Said {
    let mut said = Said::default();
    // The length of the message that has begun.
    let mut message: Option<u64> = None;
    while let [first, second, rest @ ..] = stream {
        let (fin, opcode, short) = (first & 0x80 != 0, first & 0x0f, second & 0x7f);
        let code = match opcode {
            _ if first & 0x70 != 0 || second & 0x80 == 0 => Some(CloseCode::ProtocolError),
            1 if message.is_none() => Some(CloseCode::Unsupported),
            2 if message.is_none() => None,
            0 if message.is_some() => None,
            8..=10 if fin && short < 126 => None,
            _ => Some(CloseCode::ProtocolError),
        };
        if let Some(code) = code {
            said.end = Some(End::Forbidden(code));
            return said;
        }
        let width = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let (Some(len), Some(mask)) = (rest.get(..width), rest.get(width..width + 4)) else { return said };
        let wide = len.iter().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        let len = if width == 0 { u64::from(short) } else { wide };
        if opcode < 8 {
            let whole = message.unwrap_or(0).saturating_add(len);
            if whole > WEBSOCKET_MESSAGE_MAX as u64 {
                said.end = Some(End::Forbidden(CloseCode::TooBig));
                return said;
            }
            message = (!fin).then_some(whole);
        }
        let behind = &rest[width + 4..];
        let here = behind.len().min(len as usize);
        let payload: Vec<u8> = behind[..here].iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
        let whole = here as u64 == len;
        match opcode {
            0 | 2 => said.data.extend_from_slice(&payload),
            9 if whole => said.pings.push(payload),
            8 if whole => {
                said.end = Some(match payload[..] {
                    [] => End::Closed(None),
                    [_] => End::Forbidden(CloseCode::ProtocolError),
                    [a, b, ref reason @ ..] => match u16::from_be_bytes([a, b]) {
                        1000..=1003 | 1007..=1014 | 3000..=4999 if String::from_utf8(reason.to_vec()).is_err() => {
                            End::Forbidden(CloseCode::InvalidPayload)
                        }
                        code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => End::Closed(Some(code)),
                        _ => End::Forbidden(CloseCode::ProtocolError),
                    },
                });
                return said;
            }
            _ => {}
        }
        stream = &behind[here..];
    }
    said
}
