//! What this machine does to a queue without a relay: work that comes at a steady rate to a loop on the relay's
//! processor, while the generator's spins.
//!
//! No packet and no socket takes part, and nobody is waited for. What is slow here is slow because the machine stood
//! still, and a relay that is as busy has as much of it.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use derpring_loadgen::measure;
use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_setaffinity, set_current_timer_slack};

use crate::cli;
use crate::error::Error;
use crate::machine::Quiet;
use crate::pool::{self, Rounds};

pub fn stalls(args: &cli::Stalls) -> Result<bool, Error> {
    let cpus = [args.measuring.relay_cpu, args.measuring.load_cpu];
    let mut columns: BTreeMap<String, Rounds> = BTreeMap::new();
    for round in 1..=args.measuring.rounds() {
        // Each round begins with another: stalls may come in step with the rounds.
        let first = (round as usize - 1) % args.busy.len();
        let (later, sooner) = args.busy.split_at(first);
        for busy in sooner.iter().chain(later) {
            Quiet::wait(&cpus, Duration::from_secs_f64(args.measuring.look()), args.measuring.anyway)?;
            let work = Work { rate: args.rate, busy: *busy, time: Duration::from_secs_f64(args.measuring.seconds()) };
            let latency = beside_a_spinner(cpus, work)?;
            columns.entry(format!("{busy} % busy")).or_default().insert((0, round), latency);
        }
    }
    println!("Each \"packet\" is a piece of a loop's work: there is none.\n");
    println!("{}", pool::markdown("no relay", &columns));
    Ok(true)
}

#[derive(Clone, Copy)]
struct Work {
    /// Per second.
    rate: u32,
    /// The part of the time that it takes, in percent.
    busy: u8,
    time: Duration,
}

fn beside_a_spinner([cpu, other]: [usize; 2], work: Work) -> Result<Histogram<u64>, Error> {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let spinner = scope.spawn(|| -> Result<(), Error> {
            stay_on(other)?;
            while !end.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            Ok(())
        });
        let queue = scope.spawn(|| -> Result<_, Error> {
            let _end = SetOnDrop(&end);
            stay_on(cpu)?;
            // Woken when it is time, as a socket wakes a relay, and not up to 50 us later.
            set_current_timer_slack(NonZeroU64::new(1)).map_err(|errno| Error::system("set the timer slack", errno))?;
            Ok(queue(work))
        });
        let latency = queue.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        spinner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        latency
    })
}

/// From when each piece of work was due to its end, in nanoseconds. Where the machine stands still within a piece, that
/// time counts as work: this is the least that a stall does.
fn queue(work: Work) -> Histogram<u64> {
    let apart = Duration::from_secs(1) / work.rate;
    let takes = apart * u32::from(work.busy) / 100;
    let begin = Instant::now();
    let mut latency = measure::histogram();
    let mut due = begin + apart;
    while due - begin <= work.time {
        while let Some(early) = due.checked_duration_since(Instant::now()).filter(|early| !early.is_zero()) {
            thread::sleep(early);
        }
        let began = Instant::now();
        let mut now = began;
        while now - began < takes {
            now = Instant::now();
        }
        latency.saturating_record((now - due).as_nanos() as u64);
        due += apart;
    }
    latency
}

fn stay_on(cpu: usize) -> Result<(), Error> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|errno| Error::system("stay on one processor", errno))
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_of_work_is_done_and_none_before_its_time() {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        let cpu = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap();
        let work = Work { rate: 2_000, busy: 40, time: Duration::from_millis(100) };
        let latency = beside_a_spinner([cpu, cpu], work).unwrap();
        assert_eq!(latency.len(), 200);
        assert!(latency.min() >= 200_000, "{} ns, and the work alone takes 200 us", latency.min());
        let nowhere = beside_a_spinner([CpuSet::MAX_CPU - 1, cpu], work).unwrap_err().to_string();
        assert!(nowhere.contains("stay on one processor"), "{nowhere}");
    }
}
