//! The links of the load: which of them may send now, and what arrives on them.

use std::collections::VecDeque;

use super::transit::Written;
use crate::cli::{Pace, Plan};
use crate::derp::frame::KEY_LEN;
use crate::measure::{Stats, Totals};
use crate::tls::record::StreamWriter;
use crate::traffic::flow::Flow;
use crate::traffic::payload::{Pattern, Stamp};
use crate::traffic::shape::{Class, Layout, Link};
use crate::traffic::{Violation, hex};

/// Frames in one write of a load that is not paced.
const FLOOD_BURST: u64 = 16;
/// Where a link is that is not ours.
const ELSEWHERE: u32 = u32::MAX;

/// When a packet goes, in nanoseconds of the run.
#[derive(Clone, Copy)]
pub struct When {
    /// Its latency counts from here: by schedule, where there is one.
    pub due: u64,
    pub written: u64,
}

/// When packets came, in nanoseconds of the run.
#[derive(Clone, Copy)]
pub struct Came {
    /// To the receiver's kernel; where it has not noted that, as `now`.
    pub arrived: u64,
    /// To us.
    pub now: u64,
}

pub struct Flows {
    states: Vec<State>,
    /// Where the state of a link is, by the link's number in the whole run.
    by_id: Vec<u32>,
    pattern: Pattern,
    pace: Pace,
    burst: u64,
    bulk_window: u64,
    stall: u64,
    transit: bool,
    /// Measured links whose window has room, each at most once.
    ready: Vec<usize>,
    /// The same for links that are to fill what time is left.
    beside: VecDeque<usize>,
    /// Replies that are owed since this turn's arrivals, with the time of their request.
    replies: Vec<(usize, u64)>,
    /// Links by sender.
    outgoing: Vec<Vec<usize>>,
}

struct State {
    flow: Flow,
    /// Only where transit is measured.
    written: Written,
    link: Link,
    source: [u8; KEY_LEN],
    destination: [u8; KEY_LEN],
    last_progress: u64,
    is_ready: bool,
    /// Replies that a request has asked for and that have not been sent.
    owed: u64,
}

impl Flows {
    /// `keys` are those of the connections.
    pub fn new(plan: &Plan, layout: &Layout, keys: &[[u8; KEY_LEN]]) -> Self {
        let mut by_id = vec![ELSEWHERE; layout.total_links];
        let mut outgoing = vec![Vec::new(); layout.conns.len()];
        for (at, link) in layout.links.iter().enumerate() {
            by_id[link.id as usize] = at as u32;
            outgoing[link.from].push(at);
        }
        let state = |link: &Link| State {
            flow: Flow::default(),
            written: Written::default(),
            link: *link,
            source: keys[link.from],
            destination: keys[link.to],
            last_progress: 0,
            is_ready: false,
            owed: 0,
        };
        Self {
            states: layout.links.iter().map(state).collect(),
            by_id,
            pattern: Pattern::new(plan.sizes.clone(), plan.nonce),
            pace: plan.pace,
            burst: plan.burst,
            bulk_window: plan.slow.bulk_window,
            stall: plan.stall.as_nanos() as u64,
            transit: plan.transit,
            ready: Vec::new(),
            beside: VecDeque::new(),
            replies: Vec::new(),
            outgoing,
        }
    }

    pub fn of_class(&self, class: Class) -> Vec<usize> {
        (0..self.states.len()).filter(|&at| self.states[at].link.class == class).collect()
    }

    pub fn links_from(&self, conn: usize) -> impl Iterator<Item = usize> + use<> {
        self.outgoing[conn].clone().into_iter()
    }

    pub fn sender(&self, link: usize) -> usize {
        self.states[link].link.from
    }

    /// What a former step left in flight is not waited for.
    pub fn start(&mut self, now: u64) {
        self.ready.clear();
        self.beside.clear();
        self.replies.clear();
        for link in 0..self.states.len() {
            let state = &mut self.states[link];
            state.flow.give_up();
            state.written.clear();
            state.last_progress = now;
            state.is_ready = false;
            state.owed = 0;
        }
        for link in 0..self.states.len() {
            self.wake(link);
        }
    }

    /// A measured link with room for a burst, until there is none.
    pub fn next_ready(&mut self) -> Option<usize> {
        let link = self.ready.pop()?;
        self.states[link].is_ready = false;
        Some(link)
    }

    /// A bulk link with room for a burst; `wake` puts it behind the others again.
    pub fn next_beside(&mut self) -> Option<usize> {
        let link = self.beside.pop_front()?;
        self.states[link].is_ready = false;
        Some(link)
    }

    pub fn beside_count(&self) -> usize {
        self.beside.len()
    }

    pub fn take_replies(&mut self) -> Vec<(usize, u64)> {
        std::mem::take(&mut self.replies)
    }

    pub fn has_ready(&self) -> bool {
        !(self.ready.is_empty() && self.beside.is_empty() && self.replies.is_empty())
    }

    pub fn may_send(&self, link: usize) -> bool {
        let state = &self.states[link];
        match (state.link.class, self.pace) {
            (Class::Main, Pace::Window(window)) => self.outstanding(state) + self.burst <= window,
            (Class::Bulk | Class::Slow, _) => state.flow.in_flight() + self.burst_of(link) <= self.bulk_window,
            _ => false,
        }
    }

    pub fn burst_of(&self, link: usize) -> u64 {
        match self.states[link].link.class {
            Class::Main => self.burst,
            Class::Reply | Class::Disco => 1,
            Class::Bulk | Class::Slow => FLOOD_BURST.min(self.bulk_window),
            Class::Stalled => FLOOD_BURST,
        }
    }

    /// Tells that the sender of the link can write again, or that its window has more room.
    pub fn wake(&mut self, link: usize) {
        if self.may_send(link) && !self.states[link].is_ready {
            self.states[link].is_ready = true;
            match self.states[link].link.class {
                Class::Main => self.ready.push(link),
                _ => self.beside.push_back(link),
            }
        }
    }

    /// Puts one burst; its packets say that they were sent when they were due. Returns the bytes put.
    pub fn put_burst(&mut self, link: usize, when: When, writer: &mut StreamWriter<'_>, stats: &mut Stats) -> u64 {
        let burst = self.burst_of(link);
        let state = &mut self.states[link];
        let Link { class, other, .. } = state.link;
        let times = self.transit && class == Class::Main && other.is_none();
        if state.flow.in_flight() == 0 {
            state.last_progress = when.due;
        }
        if class == Class::Reply {
            state.owed = state.owed.saturating_sub(1);
        }
        let mut bytes = 0;
        for _ in 0..burst {
            let stamp = Stamp { link: state.link.id, seq: state.flow.send(), time: when.due };
            if times {
                state.written.put(stamp.seq, when.written);
            }
            let (head, body) = self.pattern.frame(&state.destination, class == Class::Disco, stamp);
            writer.put(head.as_bytes());
            writer.put(body);
            bytes += (head.as_bytes().len() + body.len()) as u64;
        }
        stats.sent(class, burst);
        bytes
    }

    /// A RecvPacket came to a connection.
    pub fn on_packet(&mut self, conn: usize, payload: &[u8], came: Came, stats: &mut Stats) -> Result<(), Violation> {
        let Some((source, data)) = payload.split_first_chunk::<KEY_LEN>() else {
            return Err(Violation::TooShort { found: 0, least: 1 });
        };
        let (stamp, disco) = self.pattern.verify(data)?;
        let at = self.by_id.get(stamp.link as usize).map_or(ELSEWHERE, |at| *at) as usize;
        let state = self.states.get_mut(at);
        let Some(state) = state.filter(|state| state.link.to == conn && disco == (state.link.class == Class::Disco))
        else {
            return Err(Violation::Misdelivered { link: stamp.link, seq: stamp.seq });
        };
        if source != &state.source {
            return Err(Violation::WrongSource { found: hex(source), expected: hex(&state.source) });
        }
        let measured = state.flow.arrive(stamp.seq)?;
        state.last_progress = came.now;
        let Link { class, other, .. } = state.link;
        let took = came.now.saturating_sub(stamp.time);
        stats.arrived(class, data.len());
        match (class, other) {
            (Class::Main, Some(reply)) => {
                let answer = &mut self.states[reply];
                if measured {
                    answer.flow.measure_behind(answer.owed);
                }
                answer.owed += 1;
                self.replies.push((reply, stamp.time));
            }
            (Class::Reply, Some(request)) => {
                stats.took(measured, took);
                self.wake(request);
            }
            (Class::Disco, _) => stats.disco_took(measured, took),
            (Class::Main, None) => {
                stats.took(measured, took);
                if let Some(written) = state.written.take(stamp.seq) {
                    stats.passed(measured, came.arrived.saturating_sub(written));
                }
                self.wake(at);
            }
            _ => self.wake(at),
        }
        Ok(())
    }

    /// Gives up what is in flight on links that have stopped. A schedule waits for nothing, so there
    /// is nothing to give up.
    pub fn check_stalls(&mut self, now: u64, stats: &mut Stats) {
        let windowed = matches!(self.pace, Pace::Window(_));
        for at in 0..self.states.len() {
            let state = &mut self.states[at];
            let waited_for = match state.link.class {
                Class::Main | Class::Reply => windowed,
                Class::Bulk | Class::Slow => true,
                Class::Stalled | Class::Disco => false,
            };
            if !waited_for || now.saturating_sub(state.last_progress) < self.stall {
                continue;
            }
            state.last_progress = now;
            if state.flow.in_flight() > 0 {
                let given_up = state.flow.give_up();
                let Link { class, other, .. } = state.link;
                if matches!(class, Class::Main | Class::Reply) {
                    stats.stalled(given_up);
                }
                self.wake(if class == Class::Reply { other.unwrap_or(at) } else { at });
            }
        }
    }

    /// Replies are measured when their request is: both or none.
    pub fn start_measuring(&mut self) {
        for state in &mut self.states {
            match state.link.class {
                Class::Reply => state.flow.await_measuring(),
                _ => state.flow.start_measuring(),
            }
        }
    }

    /// Nothing more will be sent, but replies to what was.
    pub fn stop_measuring(&mut self) {
        for state in &mut self.states {
            if state.link.class != Class::Reply {
                state.flow.stop_measuring();
            }
        }
        self.ready.clear();
        self.beside.clear();
    }

    /// Slow and stalled receivers are not waited for.
    pub fn is_drained(&self) -> bool {
        let waited_for = |state: &&State| !matches!(state.link.class, Class::Slow | Class::Stalled);
        self.states.iter().filter(waited_for).all(|state| state.flow.is_drained() && state.owed == 0)
    }

    /// Measured packets of each class, when all that will arrive has arrived.
    pub fn totals(&mut self) -> Totals {
        let mut totals = Totals::default();
        for state in &mut self.states {
            if state.link.class == Class::Reply {
                state.flow.stop_measuring();
            }
            let (sent, arrived) = state.flow.measured();
            totals.add(state.link.class, sent, arrived);
        }
        totals
    }

    fn outstanding(&self, state: &State) -> u64 {
        let reply = state.link.other.map(|reply| &self.states[reply]);
        state.flow.in_flight() + reply.map_or(0, |reply| reply.flow.in_flight() + reply.owed)
    }
}
