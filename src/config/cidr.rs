//! Ranges of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.

use std::fmt;
use std::net::IpAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    ip: IpAddr,
    len: u8,
}

impl Cidr {
    /// As derper reads it: what stands behind the prefix does not matter.
    ///
    /// # Errors
    /// Says what to write, to be printed after `text`.
    pub(super) fn parse_lax(text: &str) -> Result<Self, String> {
        Self::parse(text).map(Self::first)
    }

    /// With whatever stands behind the prefix.
    ///
    /// # Errors
    /// Says what to write, to be printed after `text`.
    fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write a range such as 10.0.0.0/8 or 2001:db8::/32";
        let (ip, len) = text.split_once('/').ok_or_else(|| format!("the length is missing; {FORM}"))?;
        let ip: IpAddr = ip.parse().map_err(|_| format!("{ip:?} is not an IP address; {FORM}"))?;
        let digits = len.bytes().all(|b| b.is_ascii_digit());
        match len.parse() {
            Ok(len) if digits && len <= width(ip) => Ok(Self { ip, len }),
            _ => Err(format!("{len:?} is not a length up to {}; {FORM}", width(ip))),
        }
    }

    /// One address, or a range with nothing behind its prefix: more would let in more than was meant.
    ///
    /// # Errors
    /// Says what to write, to be printed after `text`.
    pub fn parse_exact(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::from(ip));
        }
        let range = Self::parse(text)?;
        match bits(range.ip).checked_shl(range.len.into()).unwrap_or(0) {
            0 => Ok(range),
            _ => Err(format!("has bits behind its prefix; write {} or {}", range.first(), range.ip)),
        }
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let differ = bits(self.ip) ^ bits(ip);
        self.ip.is_ipv4() == ip.is_ipv4() && differ.checked_shr(128 - u32::from(self.len)).unwrap_or(0) == 0
    }

    /// The same range, written from its first address.
    fn first(self) -> Self {
        let keep = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
        let first = bits(self.ip) & keep;
        let ip = if self.ip.is_ipv4() {
            IpAddr::from(((first >> 96) as u32).to_be_bytes())
        } else {
            first.to_be_bytes().into()
        };
        Self { ip, len: self.len }
    }
}

/// One address.
impl From<IpAddr> for Cidr {
    fn from(ip: IpAddr) -> Self {
        Self { ip, len: width(ip) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.len)
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// From the highest bit on, in both families.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_where_they_end() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("100.64.0.0/10", "100.127.255.255", "100.128.0.0"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7"),
            ("0.0.0.0/0", "255.1.2.3", "::1"),
            ("::/0", "ffff::", "0.0.0.0"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
        ] {
            let range = Cidr::parse_exact(range).unwrap();
            assert!(range.contains(inside.parse().unwrap()), "{range} {inside}");
            assert!(!range.contains(outside.parse().unwrap()), "{range} {outside}");
        }
    }

    #[test]
    fn a_wrong_form_says_what_to_write() {
        for (text, hint) in [
            ("10.0.0.0", "length is missing"),
            ("10.0.0/8", "is not an IP address"),
            ("10.0.0.0/33", "is not a length up to 32"),
            ("10.0.0.0/+8", "is not a length"),
            ("::/129", "is not a length up to 128"),
            ("::/", "is not a length"),
        ] {
            let problem = Cidr::parse(text).unwrap_err();
            assert!(problem.contains(hint), "{text}: {problem}");
        }
        let problem = Cidr::parse_exact("10.1.2.3/8").unwrap_err();
        assert_eq!(problem, "has bits behind its prefix; write 10.0.0.0/8 or 10.1.2.3");
        assert_eq!(
            Cidr::parse_exact("2001:db8::1/32").unwrap_err().split("write ").nth(1),
            Some("2001:db8::/32 or 2001:db8::1")
        );
        let lax = Cidr::parse_lax("10.1.2.3/8").unwrap();
        assert!(lax.contains("10.9.9.9".parse().unwrap()));
        assert_eq!(lax, Cidr::parse_exact("10.0.0.0/8").unwrap());
    }
}
