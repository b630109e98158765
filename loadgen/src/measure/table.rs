//! The result as a short table.

use std::fmt;

use super::report::{Packets, PlanReport, Process, Report, Times};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.plan;
        writeln!(f, "{}, {}", plan.url, plan.tls.unwrap_or("no TLS"))?;
        let logins = &self.logins;
        write!(f, "logins      {} in {:.2} s, {:.0} per second", logins.count, logins.seconds, logins.per_second)?;
        writeln!(f, ", each p50 {} p99 {}", Us(logins.time.p50_us), Us(logins.time.p99_us))?;
        if let Some(packets) = &self.packets {
            write!(f, "{packets}")?;
        }
        if let Some(found) = &self.find_max {
            write!(f, "found       {} packets/s with at most {} % lost", found.rate, 100.0 * found.max_loss)?;
            writeln!(f, ", in {} tries", found.tries.len())?;
        }
        if let Some(ms) = self.first_packet_ms {
            writeln!(f, "first       packet after {}", Us(ms * 1e3))?;
        }
        self.beside(f)?;
        if let Some(relay) = &self.relay {
            process(f, "relay", relay, plan)?;
        }
        process(f, "generator", &self.own, plan)?;
        let frames = &self.frames;
        if frames.peer_gone + frames.health + frames.restarting + frames.unknown > 0 {
            writeln!(
                f,
                "frames      {} peer gone, {} health, {} restarting, {} unknown",
                frames.peer_gone, frames.health, frames.restarting, frames.unknown
            )?;
        }
        for note in &self.verdict.notes {
            writeln!(f, "note        {note}")?;
        }
        Ok(())
    }
}

impl Report {
    /// The load beside the measured one.
    fn beside(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(churn) = &self.churn {
            write!(f, "churn       {} of {} logins, {} failed", churn.done, churn.started, churn.failed)?;
            writeln!(
                f,
                ", p50 {}  p99 {}  max {}",
                Us(churn.time.p50_us),
                Us(churn.time.p99_us),
                Us(churn.time.max_us)
            )?;
            if let Some(why) = &churn.first_failure {
                writeln!(f, "            the first failure: {why}")?;
            }
        }
        if let Some(bulk) = &self.bulk {
            write!(f, "bulk        {:.0} packets/s, {:.3} Gbit/s", bulk.per_second, bulk.gbit_per_second)?;
            writeln!(f, ", lost {} of {} ({:.3} %)", bulk.lost, bulk.sent, 100.0 * bulk.loss)?;
        }
        if let Some(slow) = &self.slow {
            write!(f, "slow        {} of {} packets delivered in time", slow.delivered, slow.sent)?;
            writeln!(f, ", {} receivers disconnected", slow.disconnected)?;
        }
        if let Some(stalled) = &self.stalled {
            write!(f, "stalled     {:.1} MB/s taken", stalled.bytes_per_second / 1e6)?;
            writeln!(f, ", {} connections ended by the relay", stalled.disconnected)?;
        }
        if let Some(disco) = &self.disco {
            writeln!(f, "disco       {} of {} packets", disco.arrived, disco.sent)?;
            times(f, "", &disco.latency)?;
        }
        Ok(())
    }
}

impl fmt::Display for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sent        {}", self.sent)?;
        writeln!(f, "received    {}", self.arrived)?;
        write!(f, "lost        {} ({:.3} %)", self.lost, 100.0 * self.loss)?;
        if self.stalled > 0 {
            write!(f, ", {} given up by stalled pairs", self.stalled)?;
        }
        if self.unsent > 0 {
            write!(f, "; {} never sent, the relay took no more", self.unsent)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "throughput  {:.0} packets/s, {:.3} Gbit/s of data, over {:.2} s",
            self.per_second, self.gbit_per_second, self.seconds
        )?;
        times(f, "latency", &self.latency)?;
        if let Some(transit) = &self.transit {
            times(f, "transit", transit)?;
        }
        if let Some(lateness) = &self.lateness {
            times(f, "lateness", lateness)?;
        }
        Ok(())
    }
}

fn times(f: &mut fmt::Formatter<'_>, name: &str, times: &Times) -> fmt::Result {
    writeln!(
        f,
        "{name:<11} p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
        Us(times.p50_us),
        Us(times.p90_us),
        Us(times.p99_us),
        Us(times.p999_us),
        Us(times.max_us)
    )
}

fn process(f: &mut fmt::Formatter<'_>, name: &str, process: &Process, plan: &PlanReport) -> fmt::Result {
    const MIB: f64 = 1024.0 * 1024.0;
    write!(f, "{name:<11} ")?;
    if let Some(us) = process.cpu_us_per_packet {
        write!(f, "{us:.3} us of CPU per packet, ")?;
    }
    write!(
        f,
        "{:.0} us per login, {:.1} % of a processor, {} switches, {:.1} MiB resident",
        process.cpu_us_per_login,
        100.0 * process.cpu_share,
        process.voluntary_switches + process.involuntary_switches,
        process.rss_end as f64 / MIB
    )?;
    if plan.idle > 0 {
        write!(f, ", {:.2} KiB per connection", process.rss_bytes_per_connection / 1024.0)?;
    }
    if let Some(calls) = process.syscalls_per_packet {
        write!(f, ", {calls:.3} system calls per packet")?;
    }
    writeln!(f)?;
    if process.threads.len() > 1 {
        let busy = process.threads.iter().filter(|thread| thread.cpu_s > 0.0).take(8);
        let busy: Vec<String> = busy.map(|thread| format!("{} {:.2} s", thread.name, thread.cpu_s)).collect();
        writeln!(f, "            by thread: {}", if busy.is_empty() { "none".into() } else { busy.join(", ") })?;
    }
    Ok(())
}

/// A time with the unit that suits it.
struct Us(f64);

impl fmt::Display for Us {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            us if us < 1_000.0 => write!(f, "{us:.1} us"),
            us if us < 1_000_000.0 => write!(f, "{:.2} ms", us / 1e3),
            us => write!(f, "{:.2} s", us / 1e6),
        }
    }
}
