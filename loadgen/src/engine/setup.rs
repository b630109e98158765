//! What must be right before the first connection.

use std::io;

use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;

use super::churn;
use crate::cli::Plan;
use crate::derp::login::Identity;
use crate::error::Error;

/// Descriptors beside the connections: standard streams, epoll, timer, /proc.
const OTHER_FILES: u64 = 32;

pub fn process(plan: &Plan) -> Result<(), Error> {
    if let [cpu] = plan.cpus[..] {
        pin(cpu)?;
    }
    let churn = if plan.churn > 0 { churn::MAX_ATTEMPTS as u64 } else { 0 };
    allow_files(plan.layout.conns.len() as u64 + churn + OTHER_FILES)
}

pub fn identities(count: usize) -> Result<Vec<Identity>, Error> {
    let identities: Result<_, _> = std::iter::repeat_with(Identity::random).take(count).collect();
    identities.map_err(|err| Error::System { what: "cannot make random keys", source: io::Error::other(err) })
}

pub fn pin(cpu: usize) -> Result<(), Error> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(Error::Usage(format!("--cpu or --cpus: {cpu} is beyond any processor")));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|errno| Error::System {
        what: "cannot stay on the processor given with --cpu or --cpus: is it there, and allowed to us?",
        source: errno.into(),
    })
}

fn allow_files(needed: u64) -> Result<(), Error> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if enough(limit.current) {
        return Ok(());
    }
    // Only root may raise the hard limit; everybody may raise the soft one up to it.
    let wanted =
        Rlimit { current: Some(needed), maximum: if enough(limit.maximum) { limit.maximum } else { Some(needed) } };
    rustix::process::setrlimit(Resource::Nofile, wanted)
        .map_err(|_| Error::TooManyFiles { needed, limit: limit.maximum.unwrap_or(u64::MAX) })
}
