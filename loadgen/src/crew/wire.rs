//! What generators tell each other: JSON, each message with its length ahead, in four bytes.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cli::Given;
use crate::measure::proc::Sample;
use crate::measure::{Stats, Totals};

/// Both sides must speak the same; it changes with every change of a message.
pub const PROTOCOL: u32 = 3;
/// Histograms of a whole run take some ten thousand bytes, a series of a day some millions.
const MAX_MESSAGE: usize = 64 << 20;

/// First in each direction.
#[derive(Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    pub version: String,
}

impl Hello {
    pub fn ours() -> Self {
        Self { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").into() }
    }
}

/// To an agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    Run(Box<Run>),
    /// The agent's own clock counts: the step begins when this arrives.
    Step {
        rate: Option<u64>,
        warmup: u64,
        duration: u64,
    },
}

/// The run as everybody has it, and which part of it is the agent's.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    pub args: Vec<String>,
    pub given: Given,
    pub nonce: u64,
    pub index: usize,
    pub agents: usize,
}

/// From an agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    /// It lives. Nothing else is sent while it works.
    Alive,
    LoggedIn {
        logins: String,
        /// The agent before the first connection, and now.
        own: [Sample; 2],
    },
    Stepped(Box<Stepped>),
    Failed {
        text: String,
        wrong: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Stepped {
    pub totals: Totals,
    pub stats: Stats,
    pub seconds: f64,
    pub busy: f64,
    /// The agent when the measured time began, and when it ended.
    pub own: Option<[Sample; 2]>,
}

pub fn write(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let len = u32::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    stream.write_all(&[&len.to_be_bytes()[..], &body].concat())
}

pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len) as usize;
    if len > MAX_MESSAGE {
        let text = "a message is too long: is the other side derpring-loadgen?";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut body = Vec::new();
    stream.take(len as u64).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_nonsense_does_not() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Hello::ours()).unwrap();
        write(&mut bytes, &Told::Failed { text: "no".into(), wrong: true }).unwrap();
        let mut stream = &bytes[..];
        assert_eq!(read::<Hello>(&mut stream).unwrap(), Hello::ours());
        assert!(matches!(read(&mut stream).unwrap(), Told::Failed { wrong: true, .. }));
        assert!(read::<Hello>(&mut stream).is_err());
        assert!(read::<Hello>(&mut &bytes[..7]).is_err());
        let err = read::<Hello>(&mut &b"HTTP/1.1 400 Bad Request"[..]).unwrap_err();
        assert!(err.to_string().contains("too long"), "{err}");
    }

    #[test]
    fn counts_and_histograms_cross() {
        let mut stats = Stats::new();
        stats.measure_from(5);
        stats.arrived(crate::traffic::shape::Class::Main, 100);
        stats.took(true, 1_000);
        stats.churn.failed(true, || "refused".into());
        stats.measure_to(9);
        let stepped = Stepped { totals: Totals::default(), stats, seconds: 1.5, busy: 0.5, own: None };
        let mut bytes = Vec::new();
        write(&mut bytes, &Told::Stepped(Box::new(stepped))).unwrap();
        let Told::Stepped(back) = read(&mut &bytes[..]).unwrap() else { panic!("another message") };
        assert_eq!((back.stats.latency.len(), back.stats.latency.max()), (1, 1_000));
        assert_eq!((back.stats.delivered_of_all(), back.seconds), (1, 1.5));
        assert_eq!(back.stats.churn.first_failure.as_deref(), Some("refused"));
        assert_eq!(back.stats.series.slots().len(), 1);
    }
}
