//! What happens to a connection before it is logged in.

use crate::control::metrics::series::{Series, Source, Split, Unit, counter, gauge};
use crate::stats::CloseReason;

const RESULT: Split = Split { label: "result", count: 2, values: || vec!["ok", "failed"] };
const TLS_VERSION: Split = Split { label: "version", count: 2, values: || vec!["1.2", "1.3"] };
/// Success, then every reason why a connection can end.
const LOGIN: Split = Split {
    label: "result",
    count: 1 + CloseReason::COUNT,
    values: || std::iter::once("ok").chain(CloseReason::ALL.iter().map(|reason| reason.as_str())).collect(),
};

pub static SERIES: &[Series] = &[
    counter(
        "derpring_edge_accepts_total",
        Unit::Count,
        "TCP connections accepted.",
        "Probes and strangers are among them; coder_derp_server_accepts_total counts those that ask for DERP.",
        "Many accepts with few logins are strangers or probes: derpring_edge_logins_total says what becomes of them.",
        Source::Edge(|p, edge| p.edges[edge].accepts.into()),
    ),
    counter(
        "derpring_edge_handshakes_total",
        Unit::Count,
        "TLS handshakes by result.",
        "",
        "Failures that rise with a new certificate: clients do not accept it. Otherwise scanners.",
        Source::EdgeBy(RESULT, |p, edge, result| {
            [p.edges[edge].handshakes_ok, p.edges[edge].handshakes_failed][result]
        }),
    ),
    counter(
        "derpring_edge_tls_handshakes_total",
        Unit::Count,
        "TLS handshakes that succeeded, by version.",
        "TLS 1.2 connections cost more per packet: their records are opened and sealed by a copy.",
        "A growing share of 1.2 is old clients or a proxy in between that speaks no 1.3.",
        Source::EdgeBy(TLS_VERSION, |p, edge, version| [p.edges[edge].tls12, p.edges[edge].tls13][version]),
    ),
    counter(
        "derpring_edge_logins_total",
        Unit::Count,
        "What became of connections: ok is one that a worker has taken, all else why it ended before that.",
        "http_done is a plain HTTP exchange; half_open_cap, accept_limit, max_clients and max_clients_per_ip are \
         bounds that hold; login_deadline is who did not log in within ten seconds.",
        "max_clients: raise it, or add a relay. half_open_cap and login_deadline in numbers: a flood, or peers on bad \
         links. internal: look into the log and report it.",
        Source::EdgeBy(LOGIN, |p, edge, result| match result {
            0 => p.edges[edge].logins,
            reason => p.edges[edge].closes[reason - 1],
        }),
    ),
    gauge(
        "derpring_edge_half_open",
        Unit::Count,
        "Connections that are not logged in.",
        "Idle HTTP connections of probers are among them.",
        "The sum near derpring_half_open_limit: newcomers push out the oldest. After a restart it passes; otherwise \
         derpring_edge_logins_total says who does not log in.",
        Source::Edge(|p, edge| p.edges[edge].half_open.into()),
    ),
    counter(
        "derpring_edge_http_requests_total",
        Unit::Count,
        "HTTP requests that were answered without an upgrade to DERP.",
        "Latency and captive portal probes of clients, /debug pages, browsers.",
        "Clients probe every few minutes each. Much more than that is somebody else.",
        Source::Edge(|p, edge| p.edges[edge].http_requests.into()),
    ),
    gauge(
        "derpring_edge_accept_paused",
        Unit::Count,
        "1 while the edge accepts nothing because file descriptors have run out.",
        "",
        "Raise the limit on file descriptors (LimitNOFILE= in systemd) or lower --max-clients.",
        Source::Edge(|p, edge| p.edges[edge].accept_paused.into()),
    ),
];
