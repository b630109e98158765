//! The process, as the kernel sees it.

use std::time::UNIX_EPOCH;

use crate::control::metrics::series::{Number, Series, Source, Unit, counter, gauge};

pub static SERIES: &[Series] = &[
    counter(
        "process_cpu_seconds_total",
        Unit::Seconds,
        "User and system time of all threads.",
        "Its rate is how many cores the relay uses.",
        "Divide its rate by that of packets sent: a cost per packet that grows says more than load that does.",
        Source::Relay(|p| Number::Nanos(p.process.cpu_ns)),
    ),
    gauge(
        "process_resident_memory_bytes",
        Unit::Bytes,
        "Memory that is in RAM.",
        "",
        "Compare with derpring_worker_queue_memory_bytes: queues are given back when they are empty, about 4 KiB stay \
         per client. What grows without either is a leak worth a report.",
        Source::Relay(|p| p.process.resident_bytes.into()),
    ),
    gauge(
        "process_virtual_memory_bytes",
        Unit::Bytes,
        "Memory that is reserved, in RAM or not.",
        "",
        "Only of interest where a limit on it is set (ulimit -v).",
        Source::Relay(|p| p.process.virtual_bytes.into()),
    ),
    gauge(
        "process_open_fds",
        Unit::Count,
        "Open file descriptors.",
        "One per connection, and a few per thread.",
        "Near process_max_fds accepting pauses: raise the limit (LimitNOFILE= in systemd) or lower --max-clients.",
        Source::Relay(|p| p.process.open_descriptors.into()),
    ),
    gauge(
        "process_max_fds",
        Unit::Count,
        "File descriptors that the process may open.",
        "",
        "Set at start; see process_open_fds.",
        Source::Relay(|p| p.limits.descriptors.into()),
    ),
    gauge(
        "process_start_time_seconds",
        Unit::Seconds,
        "When the relay started, in seconds since 1970.",
        "",
        "A change is a restart: look into the log before it.",
        Source::Relay(|p| p.started.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()).into()),
    ),
];
