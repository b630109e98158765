//! `/debug/traffic`: who moves how much, again and again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant as Tick, timeout_at};

use super::roster::Listing;
use super::state::State;
use crate::limits;
use crate::worker::listing::Client;

/// Which form a stream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Ours, every second and without end.
    Rates,
    /// derper's, every two seconds, beginning with everybody, until its server's write timeout.
    Derper,
}

impl Form {
    const fn period(self) -> Duration {
        match self {
            Self::Rates => Duration::from_secs(1),
            Self::Derper => Duration::from_secs(2),
        }
    }
}

/// Starts a stream. `None`: there are as many as may be.
pub(super) fn open(state: &Arc<State>, form: Form) -> Option<mpsc::Receiver<Bytes>> {
    let places = match form {
        Form::Rates => &state.streams,
        Form::Derper => &state.streams_on_main,
    };
    let place = places.clone().try_acquire_owned().ok()?;
    // One part waits while the next is made: a reader that is slower misses rounds instead of piling them up.
    let (sender, parts) = mpsc::channel(1);
    tokio::spawn(stream(state.clone(), form, sender, place));
    Some(parts)
}

async fn stream(state: Arc<State>, form: Form, sender: mpsc::Sender<Bytes>, _place: OwnedSemaphorePermit) {
    let mut phase = state.phase.subscribe();
    let began = Instant::now();
    let mut before: Option<Arc<Listing>> = None;
    let mut next = began;
    loop {
        let now = state.roster.listing(next).await;
        // Rates need something to begin from.
        let silent = before.is_none() && form == Form::Rates;
        let part = if silent { String::new() } else { round(before.as_deref(), &now, form) };
        before = Some(now);
        if sender.send(part.into()).await.is_err() {
            return;
        }
        next = state.tick_after(Instant::now().max(next), form.period());
        if form == Form::Derper && next.duration_since(began) >= limits::DEBUG_STREAM {
            return;
        }
        if timeout_at(Tick::from_std(next), phase.wait_for(|phase| phase.is_stopping())).await.is_ok() {
            return;
        }
        if sender.is_closed() {
            return;
        }
    }
}

/// A line for each client that moved data between two listings, and a blank line.
fn round(before: Option<&Listing>, now: &Listing, form: Form) -> String {
    let seconds = before.map_or(1.0, |before| now.began().duration_since(before.began()).as_secs_f64());
    let mut old = before.map_or(&[][..], |before| &before.clients).iter().peekable();
    let mut out = String::new();
    for client in &now.clients {
        let place = |c: &Client| (c.key, c.address);
        while old.next_if(|old| place(old) < place(client)).is_some() {}
        // Less than before, or younger: another connection from the same port.
        let known = old.peek().filter(|old| place(old) == place(client) && old.age <= client.age);
        let line = Line::of(client, known.copied(), seconds);
        if line.moved {
            let text =
                if form == Form::Derper { serde_json::to_string(&line.derper) } else { serde_json::to_string(&line) };
            // Numbers and hex: there is nothing in it that JSON could not say.
            out.push_str(&text.unwrap_or_default());
            out.push('\n');
        }
    }
    out.push('\n');
    out
}

/// derper's names, with bytes of packets since the connection began, as seen from the relay.
#[derive(Serialize)]
struct DerperLine {
    #[serde(rename = "Sent")]
    sent: u64,
    #[serde(rename = "Recv")]
    received: u64,
    #[serde(rename = "Key")]
    key: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    #[serde(flatten)]
    derper: DerperLine,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<std::net::SocketAddr>,
    worker: u16,
    /// Bytes, then packets, per second since the round before.
    sent_rate: u64,
    recv_rate: u64,
    sent_packets_rate: u64,
    recv_packets_rate: u64,
    #[serde(skip)]
    moved: bool,
}

impl Line {
    fn of(client: &Client, before: Option<&Client>, seconds: f64) -> Self {
        let (now, before) = (client.totals, before.map(|c| c.totals).unwrap_or_default());
        let bytes = (now.bytes_out.saturating_sub(before.bytes_out), now.bytes_in.saturating_sub(before.bytes_in));
        let packets =
            (now.packets_out.saturating_sub(before.packets_out), now.packets_in.saturating_sub(before.packets_in));
        let rate = |n: u64| (n as f64 / seconds.max(0.001)).round() as u64;
        Self {
            derper: DerperLine { sent: now.bytes_out, received: now.bytes_in, key: client.key.to_string() },
            address: client.address,
            worker: client.worker,
            sent_rate: rate(bytes.0),
            recv_rate: rate(bytes.1),
            sent_packets_rate: rate(packets.0),
            recv_packets_rate: rate(packets.1),
            moved: bytes != (0, 0) || packets != (0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::roster::Roster;
    use super::super::roster::tests::{Crowd, client, run};
    use super::*;

    fn listing(clients: Vec<Client>) -> Arc<Listing> {
        run(Roster::new(Crowd::new(vec![Some(clients)])).listing(Instant::now()))
    }

    #[test]
    fn only_who_moved_data_has_a_line() {
        let before = listing(vec![client(1, 5), client(2, 5), client(4, 7)]);
        let mut young = client(4, 2);
        young.age = Duration::from_secs(1);
        std::thread::sleep(Duration::from_millis(20));
        let now = listing(vec![client(1, 5), client(2, 9), client(3, 1), young]);
        let text = round(Some(&before), &now, Form::Derper);
        let wanted = |key: u8, bytes: u64| {
            format!("{{\"Sent\":0,\"Recv\":{bytes},\"Key\":\"nodekey:{:08x}{}\"}}\n", key, "0".repeat(56))
        };
        assert_eq!(text, [wanted(2, 900), wanted(3, 100), wanted(4, 200), "\n".to_owned()].concat());

        let ours = round(Some(&before), &now, Form::Rates);
        let line: serde_json::Value = serde_json::from_str(ours.lines().next().unwrap()).unwrap();
        assert_eq!((line["Recv"].as_u64(), line["Address"].as_str()), (Some(900), Some("10.0.0.1:2")));
        let seconds = now.began().duration_since(before.began()).as_secs_f64();
        assert_eq!(line["RecvRate"].as_u64(), Some((400.0 / seconds).round() as u64));
        assert_eq!(line["RecvPacketsRate"].as_u64(), Some((4.0 / seconds).round() as u64));
        assert_eq!(line["SentRate"].as_u64(), Some(0));
    }

    #[test]
    fn the_first_round_of_derpers_form_has_everybody_who_ever_moved_data() {
        let now = listing(vec![client(1, 5), client(2, 0), client(3, 1)]);
        assert_eq!(round(None, &now, Form::Derper).lines().count(), 3, "two, and the blank line");
    }
}
