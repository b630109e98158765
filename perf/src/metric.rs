//! The figures that are taken from the generator's report. A figure that a report has not is absent, never zero.

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    CpuPerPacket,
    WorkerCpuPerPacket,
    Throughput,
    Gbit,
    Loss,
    LatencyP50,
    LatencyP99,
    LatencyP999,
    TransitP50,
    TransitP99,
    TransitP999,
    MemoryPerClient,
    CpuPerLogin,
    LoginsPerSecond,
    ChurnP99,
    FirstPacket,
    SyscallsPerPacket,
    WorkerImbalance,
    RelayBusy,
    GeneratorBusy,
}

impl Metric {
    pub const ALL: [Self; 20] = [
        Self::CpuPerPacket,
        Self::WorkerCpuPerPacket,
        Self::Throughput,
        Self::Gbit,
        Self::Loss,
        Self::LatencyP50,
        Self::LatencyP99,
        Self::LatencyP999,
        Self::TransitP50,
        Self::TransitP99,
        Self::TransitP999,
        Self::MemoryPerClient,
        Self::CpuPerLogin,
        Self::LoginsPerSecond,
        Self::ChurnP99,
        Self::FirstPacket,
        Self::SyscallsPerPacket,
        Self::WorkerImbalance,
        Self::RelayBusy,
        Self::GeneratorBusy,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::CpuPerPacket => "CPU per packet",
            Self::WorkerCpuPerPacket => "CPU per packet, workers alone",
            Self::Throughput => "throughput",
            Self::Gbit => "data",
            Self::Loss => "loss",
            Self::LatencyP50 => "latency p50",
            Self::LatencyP99 => "latency p99",
            Self::LatencyP999 => "latency p99.9",
            Self::TransitP50 => "transit p50",
            Self::TransitP99 => "transit p99",
            Self::TransitP999 => "transit p99.9",
            Self::MemoryPerClient => "memory per client",
            Self::CpuPerLogin => "CPU per login",
            Self::LoginsPerSecond => "logins",
            Self::ChurnP99 => "login time p99, beside the load",
            Self::FirstPacket => "start to first packet",
            Self::SyscallsPerPacket => "system calls per packet",
            Self::WorkerImbalance => "workers' load apart",
            Self::RelayBusy => "relay busy",
            Self::GeneratorBusy => "generator busy",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::CpuPerPacket | Self::WorkerCpuPerPacket | Self::CpuPerLogin => "us",
            Self::LatencyP50 | Self::LatencyP99 | Self::LatencyP999 | Self::ChurnP99 => "us",
            Self::TransitP50 | Self::TransitP99 | Self::TransitP999 => "us",
            Self::Throughput => "packets/s",
            Self::Gbit => "Gbit/s",
            Self::Loss | Self::WorkerImbalance => "%",
            Self::MemoryPerClient => "KiB",
            Self::LoginsPerSecond => "per second",
            Self::FirstPacket => "ms",
            Self::SyscallsPerPacket => "",
            Self::RelayBusy | Self::GeneratorBusy => "% of a core",
        }
    }

    /// Whether its ratio to another relay says something.
    pub fn compares(self) -> bool {
        !matches!(self, Self::Gbit | Self::Loss | Self::WorkerImbalance | Self::RelayBusy | Self::GeneratorBusy)
    }

    pub fn of(self, report: &Value) -> Option<f64> {
        let at = |pointer: &str, factor: f64| Some(report.pointer(pointer)?.as_f64()? * factor);
        match self {
            Self::CpuPerPacket => at("/relay/cpu_us_per_packet", 1.0),
            Self::WorkerCpuPerPacket => worker_cpu(report),
            Self::Throughput => at("/packets/per_second", 1.0),
            Self::Gbit => at("/packets/gbit_per_second", 1.0),
            Self::Loss => at("/packets/loss", 100.0),
            Self::LatencyP50 => at("/packets/latency/p50_us", 1.0),
            Self::LatencyP99 => at("/packets/latency/p99_us", 1.0),
            Self::LatencyP999 => at("/packets/latency/p999_us", 1.0),
            Self::TransitP50 => at("/packets/transit/p50_us", 1.0),
            Self::TransitP99 => at("/packets/transit/p99_us", 1.0),
            Self::TransitP999 => at("/packets/transit/p999_us", 1.0),
            Self::MemoryPerClient => idle(report).then(|| at("/relay/rss_bytes_per_connection", 1.0 / 1024.0))?,
            Self::CpuPerLogin => idle(report).then(|| at("/relay/cpu_us_per_login", 1.0))?,
            Self::LoginsPerSecond => idle(report).then(|| at("/logins/per_second", 1.0))?,
            Self::ChurnP99 => at("/churn/time/p99_us", 1.0),
            Self::FirstPacket => at("/first_packet_ms", 1.0),
            Self::SyscallsPerPacket => at("/relay/syscalls_per_packet", 1.0),
            Self::WorkerImbalance => imbalance(report),
            Self::RelayBusy => at("/relay/cpu_share", 100.0),
            Self::GeneratorBusy => at("/own/cpu_share", 100.0),
        }
    }
}

/// What a login costs shows only where there are many and little else.
fn idle(report: &Value) -> bool {
    report.pointer("/plan/idle").and_then(Value::as_u64).is_some_and(|idle| idle > 0)
}

/// Seconds of the workers' threads, if the relay has such.
fn worker_seconds(report: &Value) -> Option<Vec<f64>> {
    let threads = report.pointer("/relay/threads")?.as_array()?;
    let worker = |thread: &&Value| thread["name"].as_str().is_some_and(|name| name.starts_with("worker-"));
    let seconds: Option<Vec<f64>> = threads.iter().filter(worker).map(|thread| thread["cpu_s"].as_f64()).collect();
    seconds.filter(|seconds| !seconds.is_empty())
}

/// The workers' share of what a packet costs the whole relay.
fn worker_cpu(report: &Value) -> Option<f64> {
    let all = report.pointer("/relay/cpu_s")?.as_f64().filter(|seconds| *seconds > 0.0)?;
    let workers: f64 = worker_seconds(report)?.iter().sum();
    Some(Metric::CpuPerPacket.of(report)? * workers / all)
}

/// By how much the busiest worker is above the least busy, in percent of their mean. Needs at least two.
fn imbalance(report: &Value) -> Option<f64> {
    let times = worker_seconds(report).filter(|times| times.len() > 1)?;
    let (least, most) = times.iter().fold((f64::MAX, 0.0_f64), |(a, b), time| (a.min(*time), b.max(*time)));
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    (mean > 0.0).then(|| 100.0 * (most - least) / mean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_those_of_the_files_and_all_are_listed() {
        let names: Vec<Value> = Metric::ALL.iter().map(|metric| json!(metric)).collect();
        assert_eq!(names[0], "cpu-per-packet");
        assert_eq!(names[1], "worker-cpu-per-packet");
        assert_eq!(names[7], "latency-p999");
        for (at, metric) in Metric::ALL.iter().enumerate() {
            assert_eq!(*metric as usize, at, "in the order of the enum, each once");
        }
    }

    #[test]
    fn absent_is_not_zero() {
        let report = json!({ "packets": null, "relay": { "cpu_share": 0.5, "cpu_us_per_packet": null } });
        assert_eq!(Metric::CpuPerPacket.of(&report), None);
        assert_eq!(Metric::Loss.of(&report), None);
        assert_eq!(Metric::FirstPacket.of(&report), None);
        assert_eq!(Metric::RelayBusy.of(&report), Some(50.0));
        assert_eq!(Metric::MemoryPerClient.of(&json!({ "relay": { "rss_bytes_per_connection": 2048 } })), None);
        let idle = json!({ "plan": { "idle": 9 }, "relay": { "rss_bytes_per_connection": 2048 } });
        assert_eq!(Metric::MemoryPerClient.of(&idle), Some(2.0));
    }

    #[test]
    fn workers_alone_are_a_part_of_the_relay() {
        let threads = json!([{ "name": "worker-0", "cpu_s": 1.0 }, { "name": "worker-1", "cpu_s": 2.0 },
            { "name": "admin", "cpu_s": 1.0 }]);
        let report = json!({ "relay": { "cpu_us_per_packet": 8.0, "cpu_s": 4.0, "threads": threads } });
        assert_eq!(Metric::WorkerCpuPerPacket.of(&report), Some(6.0));
        let foreign = json!({ "relay": { "cpu_us_per_packet": 8.0, "cpu_s": 4.0, "threads": [] } });
        assert_eq!(Metric::WorkerCpuPerPacket.of(&foreign), None);
    }

    #[test]
    fn imbalance_is_between_workers_only() {
        let threads = |times: &[(&str, f64)]| {
            let list: Vec<_> = times.iter().map(|(name, cpu_s)| json!({ "name": name, "cpu_s": cpu_s })).collect();
            Metric::WorkerImbalance.of(&json!({ "relay": { "threads": list } }))
        };
        assert_eq!(threads(&[("worker-0", 3.0), ("edge-0", 100.0), ("worker-1", 1.0)]), Some(100.0));
        assert_eq!(threads(&[("worker-0", 2.0), ("worker-1", 2.0)]), Some(0.0));
        assert_eq!(threads(&[("worker-0", 2.0), ("edge-0", 1.0)]), None);
    }
}
