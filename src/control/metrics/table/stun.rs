//! What the STUN server answers, and what it does not.

use crate::control::metrics::series::{Series, Source, Split, Unit, counter};
use crate::stats::StunResult;

const RESULT: Split = Split {
    label: "result",
    count: StunResult::COUNT,
    values: || StunResult::ALL.iter().map(|result| result.as_str()).collect(),
};
/// In the order of the cells.
const FAMILY: Split = Split { label: "family", count: 2, values: || vec!["ipv4", "ipv6"] };

pub static SERIES: &[Series] = &[
    counter(
        "derpring_stun_requests_total",
        Unit::Count,
        "Datagrams that came to the STUN sockets, by what became of them and by address family.",
        "refused happens with --stun-any only: error 420, for requests that ask for more than an address. not_stun is \
         whatever is no request, or none of Tailscale's clients while only those are answered.",
        "rate_limited: more than 2,000 a second from one IPv4 /24 or IPv6 /48, which is a flood, or somebody who is \
         flooded by way of forged addresses. not_stun in numbers: scanners, or clients that need --stun-any. \
         write_error: a firewall on this machine, or no route back; the log names one address a minute.",
        Source::RelayByBoth(RESULT, FAMILY, |p, result, family| p.stun.requests[result][family]),
    ),
    counter(
        "derpring_stun_read_errors_total",
        Unit::Count,
        "Receives on a STUN socket that failed.",
        "The socket rests for a second after each.",
        "The kernel is short of memory, or the interface is gone: the log says which error it is.",
        Source::Relay(|p| p.stun.read_errors.into()),
    ),
];
