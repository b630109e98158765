//! Which clients are among so many percent: the same ones at every relay, derper's or this.

use std::net::IpAddr;

/// Whether a client is told, when `share` of them are. Who is nobody in particular is told only when all are.
pub(super) fn includes(client: Option<IpAddr>, share: f64) -> bool {
    match client {
        _ if share <= 0.0 => false,
        _ if share >= 1.0 => true,
        None => false,
        // Somebody is trying it out.
        Some(ip) if ip.to_canonical().is_loopback() => getrandom::u64().is_ok_and(|random| random & 1 == 0),
        Some(ip) => share > draw(ip),
    }
}

/// From 0 up to 1, by the address alone.
fn draw(ip: IpAddr) -> f64 {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let (mut high, mut low) = ([0; 8], [0; 8]);
    high.copy_from_slice(&bytes[..8]);
    low.copy_from_slice(&bytes[8..]);
    let random = first_of_pcg(u64::from_le_bytes(high), u64::from_le_bytes(low));
    // As Go makes a float of it.
    (random << 11 >> 11) as f64 / (1_u64 << 53) as f64
}

/// The first number of PCG-DXSM with this state, as Go's `math/rand/v2` has it.
fn first_of_pcg(high: u64, low: u64) -> u64 {
    const MULTIPLIER: u128 = (2_549_297_995_355_413_924 << 64) | 4_865_540_595_714_422_341;
    const INCREMENT: u128 = (6_364_136_223_846_793_005 << 64) | 1_442_695_040_888_963_407;
    const CHEAP: u64 = 0xda94_2042_e4dd_58b5;
    let state = ((u128::from(high) << 64) | u128::from(low)).wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
    let (mut high, low) = ((state >> 64) as u64, state as u64);
    high ^= high >> 32;
    high = high.wrapping_mul(CHEAP);
    high ^= high >> 48;
    high.wrapping_mul(low | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// derper's own points: half of the clients.
    #[test]
    fn the_same_half_as_derper() {
        for (last, told) in [(4, true), (5, true), (6, false), (7, true), (8, false), (9, true), (10, true)] {
            let ip = IpAddr::from([1, 2, 3, last]);
            assert_eq!(includes(Some(ip), 0.5), told, "{ip}");
            assert!(includes(Some(ip), 1.0) && !includes(Some(ip), 0.0));
        }
        assert!(includes(None, 1.0) && !includes(None, 0.99));
    }

    #[test]
    fn a_share_is_a_share() {
        let clients = (0..1000_u32).map(|n| IpAddr::from((0xc633_6400 + n).to_be_bytes()));
        let told = clients.filter(|ip| includes(Some(*ip), 0.2)).count();
        assert!((150..250).contains(&told), "{told} of 1000");
        let local = (0..200).filter(|_| includes(Some([127, 0, 0, 1].into()), 0.01)).count();
        assert!((50..150).contains(&local), "half of the time, whatever the share: {local}");
    }
}
