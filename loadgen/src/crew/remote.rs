//! Agents on other machines, as one crew.

use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::wire::{self, Hello, Order, Run, Stepped, Told};
use super::{Crew, LEAD_TIME, Step};
use crate::cli::Plan;
use crate::error::Error;
use crate::measure::proc::Sample;
use crate::measure::{At, StepResult, hdr, histogram};

/// An agent says twice a second that it lives.
const SILENCE: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(10);

pub struct Agents<'a> {
    plan: &'a Plan,
    clock: Instant,
    agents: Vec<Agent>,
    told: Receiver<(usize, Result<Told, std::io::Error>)>,
}

struct Agent {
    name: String,
    stream: TcpStream,
}

impl<'a> Agents<'a> {
    pub fn start(plan: &'a Plan) -> Result<Self, Error> {
        let (tell, told) = channel();
        let mut agents = Vec::new();
        for (index, name) in plan.agents.iter().enumerate() {
            let run = Run {
                args: plan.command_line.clone(),
                given: plan.given.clone(),
                nonce: plan.nonce,
                index,
                agents: plan.agents.len(),
            };
            agents.push(Agent { name: name.clone(), stream: begin(name, run, index, tell.clone())? });
        }
        Ok(Self { plan, clock: Instant::now(), agents, told })
    }

    fn next(&mut self) -> Result<Told, Error> {
        match self.told.recv_timeout(SILENCE) {
            Ok(told) => self.judge(told),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(Error::AgentIo { agent: "every agent".into(), source: std::io::ErrorKind::TimedOut.into() })
            }
        }
    }

    fn judge(&self, (agent, told): (usize, Result<Told, std::io::Error>)) -> Result<Told, Error> {
        let agent = self.agents[agent].name.clone();
        match told {
            Ok(Told::Failed { text, wrong: true }) => Err(Error::AgentWrong { agent, text }),
            Ok(Told::Failed { text, wrong: false }) => Err(Error::AgentFailed { agent, text }),
            Ok(told) => Ok(told),
            Err(source) => Err(Error::AgentIo { agent, source }),
        }
    }

    fn at(&self) -> Result<At, Error> {
        At::now(self.plan.relay_pid, self.clock.elapsed().as_nanos() as u64)
    }
}

impl Crew for Agents<'_> {
    fn logged_in(&mut self) -> Result<(Histogram<u64>, Option<[Sample; 2]>), Error> {
        let mut logins = histogram();
        let mut sum = [Sample::default(); 2];
        let mut missing = self.agents.len();
        while missing > 0 {
            if let Told::LoggedIn { logins: text, own } = self.next()? {
                let times = hdr::decode(&text).ok_or(Error::AgentNonsense)?;
                logins.add(times).map_err(|_| Error::AgentNonsense)?;
                add(&mut sum, own);
                missing -= 1;
            }
        }
        Ok((logins, Some(sum)))
    }

    fn begin(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64 + LEAD_TIME
    }

    /// The relay, where it is on this machine, is sampled by our clock: within a message's time of
    /// what the agents measure.
    fn step(&mut self, step: Step) -> Result<StepResult, Error> {
        let order = Order::Step { rate: step.rate, warmup: step.warmup, duration: step.duration };
        for agent in &mut self.agents {
            let name = agent.name.clone();
            wire::write(&mut agent.stream, &order).map_err(|source| Error::AgentIo { agent: name, source })?;
        }
        let begun = Instant::now();
        let warm = Duration::from_nanos(step.warmup);
        let end = warm.saturating_add(Duration::from_nanos(step.duration));
        let (mut from, mut to) = (None, None);
        let mut sum: Option<StepResult> = None;
        let mut own = [Sample::default(); 2];
        let mut missing = self.agents.len();
        while missing > 0 || to.is_none() {
            let passed = begun.elapsed();
            if from.is_none() && passed >= warm {
                from = Some(self.at()?);
            }
            if to.is_none() && passed >= end {
                to = Some(self.at()?);
            }
            let border = if from.is_none() { warm } else { end };
            let told = match border.checked_sub(begun.elapsed()).filter(|_| to.is_none()) {
                Some(left) => match self.told.recv_timeout(left.min(SILENCE)) {
                    Err(RecvTimeoutError::Timeout) => continue,
                    Ok((_, Ok(Told::Alive))) => continue,
                    Ok(other) => self.judge(other)?,
                    Err(RecvTimeoutError::Disconnected) => self.next()?,
                },
                None => self.next()?,
            };
            if let Told::Stepped(stepped) = told {
                let Stepped { totals, stats, seconds, busy, own: agent } = *stepped;
                add(&mut own, agent.unwrap_or_default());
                let result = StepResult { totals, stats, at: None, seconds, busy };
                match &mut sum {
                    Some(sum) => sum.add(result),
                    None => sum = Some(result),
                }
                missing -= 1;
            }
        }
        let sum = sum.ok_or(Error::AgentNonsense)?;
        if let (Some(from), Some(to)) = (&mut from, &mut to) {
            [from.own, to.own] = own;
        }
        Ok(StepResult { at: from.zip(to), ..sum })
    }
}

fn add(sum: &mut [Sample; 2], agent: [Sample; 2]) {
    for (sum, agent) in sum.iter_mut().zip(agent) {
        *sum += agent;
    }
}

/// Greets an agent, gives it its part, and hands on what it tells.
fn begin(
    name: &str,
    run: Run,
    index: usize,
    tell: Sender<(usize, Result<Told, std::io::Error>)>,
) -> Result<TcpStream, Error> {
    use std::net::ToSocketAddrs as _;
    let failed = |source| Error::AgentIo { agent: name.into(), source };
    let addr = name.to_socket_addrs().map_err(failed)?.next();
    let addr = addr.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    let mut stream = TcpStream::connect_timeout(&addr, CONNECT).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(SILENCE)).map_err(failed)?;
    wire::write(&mut stream, &Hello::ours()).map_err(failed)?;
    let theirs: Hello = wire::read(&mut stream).map_err(failed)?;
    if theirs != Hello::ours() {
        return Err(Error::AgentVersion {
            agent: name.into(),
            version: theirs.version,
            protocol: theirs.protocol,
            ours: wire::PROTOCOL,
        });
    }
    wire::write(&mut stream, &Order::Run(Box::new(run))).map_err(failed)?;
    let mut reader = stream.try_clone().map_err(failed)?;
    std::thread::spawn(move || {
        loop {
            let told = wire::read(&mut reader);
            let over = told.is_err();
            if tell.send((index, told)).is_err() || over {
                return;
            }
        }
    });
    Ok(stream)
}
