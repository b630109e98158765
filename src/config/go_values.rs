//! Values as Go's flag package reads them.

use std::time::Duration;

/// `1`, `t`, `TRUE`, `false` and the like; nothing else.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Decimal, `0x`, `0o`, `0b`, and octal with a leading zero.
pub(super) fn parse_int(text: &str) -> Option<i64> {
    let (negative, digits) = split_sign(text);
    let (radix, digits) = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some(other) if other.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

pub(super) fn parse_float(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// A Go duration: signed nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GoDuration(pub i64);

impl GoDuration {
    /// `None` when negative.
    pub(super) fn non_negative(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

/// `10m`, `1h2m3.5s`, `-1.5h`, `0`.
pub(super) fn parse_duration(text: &str) -> Option<GoDuration> {
    let (negative, mut rest) = split_sign(text);
    if rest == "0" {
        return Some(GoDuration(0));
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let (term, after) = parse_term(rest)?;
        nanos = nanos.checked_add(term)?;
        rest = after;
    }
    i64::try_from(if negative { -nanos } else { nanos }).ok().map(GoDuration)
}

/// One number with its unit, and what follows it.
fn parse_term(text: &str) -> Option<(i128, &str)> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (number, rest) = text.split_at(text.find(|c| !is_number(c))?);
    let (unit, rest) = rest.split_at(rest.find(is_number).unwrap_or(rest.len()));
    let scale: i128 = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    // Fifteen digits of an hour are finer than a nanosecond.
    let fraction = &fraction[..fraction.len().min(15)];
    let digits = |text: &str| {
        if text.is_empty() { Some(0) } else { text.parse::<u64>().ok().map(i128::from) }
    };
    let parts = digits(fraction)? * scale / 10_i128.pow(fraction.len() as u32);
    Some((digits(whole)? * scale + parts, rest))
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        const S: i64 = 1_000_000_000;
        for (text, expected) in [
            ("0", Some(0)),
            ("10m", Some(600 * S)),
            ("2s", Some(2 * S)),
            ("1h2m3.5s", Some(3723 * S + S / 2)),
            ("-1.5h", Some(-5400 * S)),
            ("+5s", Some(5 * S)),
            ("3000000h", None),
            ("1.000000001s", Some(S + 1)),
            (".5s", Some(S / 2)),
            ("1.s", Some(S)),
            ("1\u{b5}s", Some(1000)),
            ("1us2ns", Some(1002)),
            ("0.100000000000000000000h", Some(360 * S)),
            ("", None),
            ("-", None),
            (".s", None),
            ("1.2.3s", None),
            ("3", None),
            ("s", None),
            ("1 s", None),
            ("1d", None),
        ] {
            assert_eq!(parse_duration(text), expected.map(GoDuration), "{text:?}");
        }
        assert_eq!(GoDuration(-1).non_negative(), None);
        assert_eq!(GoDuration(S).non_negative(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn numbers_and_booleans_read_as_in_go() {
        for (text, expected) in [
            ("80", Some(80)),
            ("-1", Some(-1)),
            ("+7", Some(7)),
            ("0", Some(0)),
            ("0x50", Some(80)),
            ("0b11", Some(3)),
            ("0o17", Some(15)),
            ("017", Some(15)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("--1", None),
            ("0x-1", None),
            ("", None),
            ("1.5", None),
            ("é", None),
        ] {
            assert_eq!(parse_int(text), expected, "{text:?}");
        }
        assert_eq!(parse_bool("T"), Some(true));
        assert_eq!(parse_bool("false"), Some(false));
        assert_eq!(parse_bool("yes"), None);
        assert_eq!(parse_float("+Inf"), Some(f64::INFINITY));
    }
}
