//! The relay as a whole: ends of sessions, bounds, what runs, and all histograms.

use crate::control::metrics::series::{Scale, Series, Source, Split, Unit, counter, gauge, histogram};
use crate::stats::CloseReason;

const REASON: Split = Split {
    label: "reason",
    count: CloseReason::COUNT,
    values: || CloseReason::ALL.iter().map(|reason| reason.as_str()).collect(),
};

/// In the order of the cells.
const RESULT: Split = Split { label: "result", count: 2, values: || vec!["taken_over", "refused"] };

pub static SERIES: &[Series] = &[
    counter(
        "derpring_sessions_ended_total",
        Unit::Count,
        "Logged-in connections that ended, by reason.",
        "The reasons are those of the log. Connections that end before their login: derpring_edge_logins_total.",
        "peer_closed and peer_reset are clients that leave. write_timeout: peers whose network is gone, or that do not \
         read. bad_frame, bad_record, control_backlog: broken or hostile peers, the log has their addresses. internal: \
         report it.",
        Source::RelayBy(REASON, |p, reason| p.sum(|w| w.closes[reason])),
    ),
    gauge(
        "derpring_clients_limit",
        Unit::Count,
        "Connections that may be logged in at a time (--max-clients).",
        "Without the flag it follows from the limit on file descriptors.",
        "Alert on coder_derp_server_connections divided by it.",
        Source::Relay(|p| p.limits.max_clients.into()),
    ),
    gauge(
        "derpring_half_open_limit",
        Unit::Count,
        "Connections that may be not logged in at a time, over all edges.",
        "",
        "Alert on the sum of derpring_edge_half_open divided by it.",
        Source::Relay(|p| p.limits.half_open.into()),
    ),
    counter(
        "derpring_reloads_total",
        Unit::Count,
        "Times that the configuration was read again, by result.",
        "At SIGHUP, and when one of its files changes. refused: something in it cannot be used, and all stays as it \
         was; with certificates alone, those stay and the rest counts.",
        "refused: the log says what to mend, and in which file. Until then a restart would fail.",
        Source::RelayBy(RESULT, |p, result| p.reloads[result]),
    ),
    gauge(
        "derpring_last_reload_timestamp_seconds",
        Unit::Seconds,
        "When the configuration was last read again with success, in seconds since 1970.",
        "Zero until the first time after the start.",
        "Older than a change that was made: the relay has not seen it, or has refused it.",
        Source::Relay(|p| p.last_reload.into()),
    ),
    gauge(
        "derpring_build_info",
        Unit::Count,
        "Always 1; the labels say which version runs, and on which kernel interface.",
        "backend is that of the workers, edge_backend that of the edges.",
        "backend=\"epoll\" where io_uring was expected: the first lines of the log say why.",
        Source::Build,
    ),
    histogram(
        "derpring_queue_time_seconds",
        Unit::Seconds,
        "Time from the arrival of a packet at the relay until it is given to the kernel.",
        "Packets that were dropped are not in it, nor what the receiver's network takes afterwards.",
        "The upper quantiles grow when receivers are slower than their senders, or workers are busy: compare with \
         derpring_worker_queued_bytes and derpring_worker_load_ratio.",
        Source::Histogram(Scale::Microseconds, |p| &p.queue_time),
    ),
    histogram(
        "derpring_turn_seconds",
        Unit::Seconds,
        "Time that a worker takes from one look at its sockets to the next, without its sleep.",
        "It bounds what the relay itself adds to a packet's latency.",
        "Turns above 10 ms: the machine is overcommitted (look at steal time), or a worker has too much to do.",
        Source::Histogram(Scale::Nanoseconds, |p| &p.turn_time),
    ),
    histogram(
        "derpring_login_seconds",
        Unit::Seconds,
        "Time from accept until a worker has the connection: TLS, HTTP and DERP login.",
        "The peer's round trips are in it.",
        "If it grows for all: edges have too little CPU time, or too many log in at once. More edges: --edges.",
        Source::Histogram(Scale::Microseconds, |p| &p.login_time),
    ),
    histogram(
        "derpring_batch_packets",
        Unit::Count,
        "Packets that one turn of a worker had for one other worker.",
        "Larger batches cost less per packet.",
        "Mostly 1 under load: many pairs talk across workers, thinly. Sessions then move, see \
         derpring_worker_moves_total.",
        Source::Histogram(Scale::Unit, |p| &p.batch_packets),
    ),
    histogram(
        "derpring_record_bytes",
        Unit::Bytes,
        "Plaintext bytes in one sealed record; in one chunk on connections without TLS.",
        "Fuller records cost less per byte.",
        "Small records under load: traffic of small packets to many receivers. Nothing to mend, but it costs.",
        Source::Histogram(Scale::Unit, |p| &p.record_bytes),
    ),
];
