//! Certificates from an authority that speaks ACME, on a thread of their own.
//!
//! The relay starts with what the cache folder holds, or with nothing; then handshakes fail until there is a
//! certificate. Unlike derper's, which asks when the first client comes, we ask at once: that client need not wait.

mod account;
mod cache;
mod client;
mod keeper;
mod order;
mod pace;
mod subject;
mod tokens;

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use crate::config::AcmeConfig;
use crate::edge::be_nice;
use crate::limits;
use crate::proto::http::Challenges;
use crate::tls::identity::Certificates;
use crate::tls::outgoing::{self, OutgoingError};
use cache::Cache;
use client::Client;
use keeper::Keeper;
pub use pace::Pace;
use subject::Subject;
use tokens::Tokens;

/// What the thread works with.
pub struct Parts {
    pub config: AcmeConfig,
    pub certificates: Certificates,
    /// Addresses of the main listener.
    pub listening: Vec<IpAddr>,
    /// Whether somebody answers on port 80.
    pub http: bool,
    pub pace: Pace,
}

/// Why it cannot start: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot ask {directory} for certificates: {source}")]
    Trust { directory: String, source: OutgoingError },
    #[error("the ACME directory {0:?} is none: give an https:// URL")]
    Directory(String),
    #[error(
        "certificates for addresses need HTTP-01: give --http-listen an address, which the world reaches at port 80"
    )]
    NoHttp,
    #[error("cannot start the acme thread: {0}")]
    Thread(io::Error),
}

/// The running thread.
pub struct Acme {
    tokens: Arc<Tokens>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Acme {
    /// What the cache holds is presented when this returns.
    ///
    /// # Errors
    /// Nothing runs then.
    pub fn start(parts: Parts) -> Result<Self, StartError> {
        let Parts { config, certificates, listening, http, pace } = parts;
        if !config
            .directory
            .parse::<hyper::Uri>()
            .is_ok_and(|url| url.scheme_str() == Some("https") && url.host().is_some())
        {
            return Err(StartError::Directory(config.directory));
        }
        if config.ip_certs && !http {
            return Err(StartError::NoHttp);
        }
        let trust = outgoing::client_config(config.ca_file.as_deref())
            .map_err(|source| StartError::Trust { directory: config.directory.clone(), source })?;
        let cache = Cache::new(&config);
        let tokens = Arc::new(Tokens::new(&config.hostnames, config.ip_certs));
        let mut keeper = Keeper::new(config, pace, http, cache, Client::new(trust), certificates, tokens.clone());
        let wanted = keeper.begin(&listening);
        let (stop, stopped) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let main = move || {
            be_nice();
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = keeper.run(wanted) => {}
                }
            });
            // A name that is being looked up holds a thread for as long as the resolver likes: nobody waits for it.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("acme".to_owned()).spawn(main).map_err(StartError::Thread)?;
        Ok(Self { tokens, stop, thread })
    }

    /// For whoever answers on port 80.
    pub fn challenges(&self) -> Arc<dyn Challenges> {
        self.tokens.clone()
    }

    /// Ends the thread; an order that is under way is the authority's to forget.
    pub fn stop(self) {
        let _ = self.stop.send(());
        // A thread that panicked has said so.
        let _ = self.thread.join();
    }
}

/// Addresses to ask certificates for: clients bring up those that a listener on all addresses has.
type Wanted = mpsc::Receiver<IpAddr>;

fn wanted() -> (mpsc::Sender<IpAddr>, Wanted) {
    mpsc::channel(limits::ACME_ADDRESSES_MAX)
}

/// Whether the host has this address, and is not merely routed to it.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}
