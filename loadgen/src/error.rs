//! What can end a run, and the exit status that says so.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::derp::frame::FrameTooLong;
use crate::derp::login::LoginError;
use crate::derp::ws::WsError;
use crate::stun::AnswerError;
use crate::tls::TlsError;
use crate::traffic::Violation;

/// Exit statuses. A script may rely on them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Exit {
    /// The run is complete; loss, if any, is in the report.
    Good = 0,
    /// The run could not be made: flags, connections, the relay went away.
    Failed = 1,
    /// The relay delivered something it must not deliver.
    Wrong = 2,
    /// The run is complete, but the generator was late: its figures are not the relay's.
    Late = 3,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("cannot resolve {host}: give the address with --connect IP:PORT")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot fetch {url}")]
    Fetch {
        url: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot set up TLS")]
    TlsSetup(#[source] TlsError),
    #[error("{what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "{needed} open files are needed but the limit is {limit}: raise it (ulimit -Hn) or ask for fewer connections"
    )]
    TooManyFiles { needed: u64, limit: u64 },
    #[error("cannot read process {pid} (--relay-pid): is the relay running?")]
    Process {
        pid: u32,
        #[source]
        source: io::Error,
    },
    #[error("{who} did not log in to {addr}, {stage}")]
    Login {
        who: Who,
        addr: SocketAddr,
        stage: &'static str,
        #[source]
        source: Box<ConnError>,
    },
    #[error("{who} lost its connection in the middle of the run")]
    Lost {
        who: Who,
        #[source]
        source: ConnError,
    },
    #[error("wrong delivery to {who}: {source}")]
    Wrong { who: Who, source: Violation },
    #[error("wrong answer from {server}: {source}")]
    WrongAnswer { server: SocketAddr, source: AnswerError },
    #[error("no packet between the first two clients within {0:?} (--login-timeout): is the relay running at {1}?")]
    FirstPacket(std::time::Duration, SocketAddr),
    #[error("even {rate} packets per second are not carried with at most {} % lost (--max-loss)", 100.0 * max_loss)]
    NothingCarried { rate: u64, max_loss: f64 },
    #[error("cannot listen on {addr} (--agent)")]
    AgentListen {
        addr: String,
        #[source]
        source: io::Error,
    },
    #[error("lost {agent} (--agents): is it running, and reachable?")]
    AgentIo {
        agent: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "{agent} is derpring-loadgen {version} with protocol {protocol}, this is {} with {ours}: run the same version \
         on both",
        env!("CARGO_PKG_VERSION")
    )]
    AgentVersion { agent: String, version: String, protocol: u32, ours: u32 },
    #[error("{agent} failed: {text}")]
    AgentFailed { agent: String, text: String },
    #[error("at {agent}: {text}")]
    AgentWrong { agent: String, text: String },
    #[error("an agent told what makes no sense")]
    AgentNonsense,
    #[error("a thread of the generator ended before its work")]
    ThreadGone,
}

impl Error {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Wrong { .. } | Self::WrongAnswer { .. } | Self::AgentWrong { .. } => Exit::Wrong,
            _ => Exit::Failed,
        }
    }
}

/// Why one connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConnError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the relay closed the connection")]
    Closed,
    #[error("no answer within the time given by --login-timeout")]
    Timeout,
    #[error(transparent)]
    Frame(#[from] FrameTooLong),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    WebSocket(#[from] WsError),
    #[error(transparent)]
    Wrong(#[from] Violation),
}

impl From<rustix::io::Errno> for ConnError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// One of the generator's connections, by its part in the run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Who {
    pub role: Role,
    pub index: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    Sender,
    Receiver,
    Requester,
    Responder,
    Hub,
    Leaf,
    Client,
    Idle,
    BulkSender,
    BulkReceiver,
    SlowSender,
    SlowReceiver,
    StalledSender,
    StalledReceiver,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let role = match self.role {
            Role::Sender => "sender",
            Role::Receiver => "receiver",
            Role::Requester => "requester",
            Role::Responder => "responder",
            Role::Hub => "hub",
            Role::Leaf => "leaf",
            Role::Client => "client",
            Role::Idle => "idle client",
            Role::BulkSender => "bulk sender",
            Role::BulkReceiver => "bulk receiver",
            Role::SlowSender => "sender to slow receiver",
            Role::SlowReceiver => "slow receiver",
            Role::StalledSender => "sender to stalled receiver",
            Role::StalledReceiver => "stalled receiver",
        };
        write!(f, "{role} {}", self.index)
    }
}

/// An error and its causes on one line, each said once.
pub fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
