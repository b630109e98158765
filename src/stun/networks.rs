//! How many answers each network may have: so much that a NAT with twenty thousand clients behind it is served, so
//! little that nobody is worth flooding through us.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use crate::driver::Nanos;
use crate::limits::{STUN_ANSWERS_BURST, STUN_ANSWERS_PER_SECOND, STUN_NETWORKS};

/// What one answer takes of its network's time, and how far that time may run ahead.
const ANSWER: Nanos = Duration::from_secs(1).as_nanos() as Nanos / STUN_ANSWERS_PER_SECOND as Nanos;
const AHEAD: Nanos = ANSWER * STUN_ANSWERS_BURST as Nanos;

/// Places that one network may have. It takes the one that is done first, so that those who ask most keep theirs.
const WAYS: usize = 4;
const SETS: usize = STUN_NETWORKS / WAYS;
const _: () = assert!(SETS.is_power_of_two());

/// Networks and when each will have had the time for its answers. Nothing else is kept of them: a place whose time has
/// come is as good as empty.
pub struct Networks {
    sets: Box<[[Place; WAYS]]>,
    hasher: foldhash::fast::RandomState,
}

#[derive(Clone, Copy, Default)]
struct Place {
    network: u64,
    done: Nanos,
}

impl Networks {
    pub fn new() -> Self {
        Self { sets: vec![[Place::default(); WAYS]; SETS].into(), hasher: foldhash::fast::RandomState::default() }
    }

    /// Whether this address may be answered at `now`; if so, that is counted.
    pub fn admit(&mut self, ip: IpAddr, now: Nanos) -> bool {
        let network = network(ip);
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(network);
        let set = &mut self.sets[hasher.finish() as usize % SETS];
        let at = match set.iter().position(|place| place.network == network) {
            Some(at) => at,
            None => {
                let first = (0..WAYS).min_by_key(|at| set[*at].done).unwrap_or(0);
                set[first] = Place { network, done: now };
                first
            }
        };
        let done = set[at].done.max(now) + ANSWER;
        let admitted = done <= now + AHEAD;
        if admitted {
            set[at].done = done;
        }
        admitted
    }
}

/// The network of an address: what the Internet routes as one, and no less. A /24 and a /48 are the longest prefixes
/// that are announced in BGP, so that this is the link that a flood of answers would meet. Never zero.
fn network(ip: IpAddr) -> u64 {
    const IPV4: u64 = 1 << 48;
    const IPV6: u64 = 1 << 49;
    match ip.to_canonical() {
        IpAddr::V4(ip) => IPV4 | u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => IPV6 | (ip.to_bits() >> 80) as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn admitted(networks: &mut Networks, ip: IpAddr, now: Nanos, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(networks.admit(ip, now))).sum()
    }

    #[test]
    fn a_network_has_its_burst_and_then_its_rate() {
        let mut networks = Networks::new();
        let (a, neighbour, other) = (ip("192.0.2.1"), ip("192.0.2.200"), ip("192.0.3.1"));
        assert_eq!(admitted(&mut networks, a, SECOND, 10_000), STUN_ANSWERS_BURST);
        assert_eq!(admitted(&mut networks, neighbour, SECOND, 10), 0, "one network");
        assert_eq!(admitted(&mut networks, ip("::ffff:192.0.2.9"), SECOND, 10), 0, "however it is written");
        assert_eq!(admitted(&mut networks, other, SECOND, 10), 10);
        assert_eq!(admitted(&mut networks, a, 2 * SECOND, 10_000), STUN_ANSWERS_PER_SECOND);
        assert_eq!(
            admitted(&mut networks, a, 100 * SECOND, 10_000),
            STUN_ANSWERS_BURST,
            "and no more for its patience"
        );
    }

    #[test]
    fn networks_are_what_is_routed_as_one() {
        for (a, b, same) in [
            ("10.1.2.0", "10.1.2.255", true),
            ("10.1.2.0", "10.1.3.0", false),
            ("2001:db8:1::1", "2001:db8:1:ffff:ffff::2", true),
            ("2001:db8:1::1", "2001:db8:2::1", false),
            ("0.0.0.1", "::1", false),
            ("0.1.2.3", "::1:203", false),
        ] {
            assert_eq!(network(ip(a)) == network(ip(b)), same, "{a} and {b}");
        }
        assert!(network(ip("0.0.0.0")) != 0 && network(ip("::")) != 0, "zero is an empty place");
    }

    /// Somebody who forges addresses of a million networks neither frees himself nor shuts others out.
    #[test]
    fn a_crowd_of_networks_does_not_push_out_who_is_over_the_limit() {
        let mut networks = Networks::new();
        let (greedy, now) = (ip("198.51.100.1"), SECOND);
        assert_eq!(admitted(&mut networks, greedy, now, STUN_ANSWERS_BURST + 1), STUN_ANSWERS_BURST);
        for n in 0..1_000_000_u32 {
            let stranger = Ipv4Addr::from_bits(n << 8).into();
            if network(stranger) != network(greedy) {
                assert!(networks.admit(stranger, now), "network {n} is new here");
            }
        }
        assert_eq!(admitted(&mut networks, greedy, now, 100), 0);
    }
}
