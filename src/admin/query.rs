//! The part of a request's address behind the question mark.

/// Names and values in the order in which they stand there, without what makes them fit for an address.
///
/// # Errors
/// The first pair that is malformed.
pub(super) fn pairs(query: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        match (decode(name), decode(value)) {
            (Some(name), Some(value)) => Ok((name, value)),
            _ => Err(format!("{text:?} is not in the form of an address")),
        }
    };
    query.split('&').filter(|text| !text.is_empty()).map(pair).collect()
}

/// A value that is fit to stand in an address.
pub(super) fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| (b as char).to_digit(16));
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_apart_and_back() {
        let read = pairs("key=nodekey%3Aab&&sort=bytes+in&flag&x=%C3%A4=1").unwrap();
        let read: Vec<(&str, &str)> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(read, [("key", "nodekey:ab"), ("sort", "bytes in"), ("flag", ""), ("x", "\u{e4}=1")]);
        for bad in ["a=%", "a=%4", "a=%zz", "%ff=1"] {
            assert!(pairs(bad).unwrap_err().contains(bad), "{bad}");
        }
        let odd = "a b&c=d%\u{e4}\"<";
        assert_eq!(pairs(&format!("x={}", encode(odd))).unwrap(), [("x".to_owned(), odd.to_owned())]);
    }
}
