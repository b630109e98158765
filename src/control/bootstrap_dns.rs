//! The names whose addresses `/bootstrap-dns` tells clients that have no DNS of their own yet.
//!
//! A thread of its own asks the system's resolver at start and every ten minutes; edges read what it found.

mod rollout;
mod txt;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::Serialize;
use tracing::warn;

use crate::config::BootstrapDns;
use crate::limits;

/// What is told now. The thread that keeps it fresh ends with it.
#[derive(Debug)]
pub struct Table {
    /// `None` until somebody has looked, and where there is nothing to look for.
    published: ArcSwapOption<Published>,
    unpublished: ArcSwap<HashMap<String, Unpublished>>,
    /// Names that were asked for, which is only counted.
    asked: Mutex<HashSet<Box<str>>>,
    stop: Mutex<Option<mpsc::Sender<()>>>,
}

#[derive(Debug)]
struct Published {
    addresses: BTreeMap<String, Vec<IpAddr>>,
    body: String,
}

#[derive(Debug, PartialEq)]
struct Unpublished {
    addresses: Vec<IpAddr>,
    /// Of clients that are told, from 0 to 1.
    share: f64,
}

/// What is counted, in the order of the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    Requests,
    PublishedHits,
    PublishedMisses,
    UnpublishedHits,
    UnpublishedMisses,
    UnpublishedPercentMisses,
}

impl Count {
    pub const COUNT: usize = 6;
}

impl Table {
    /// Without names: it answers, and tells nothing.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self {
            published: ArcSwapOption::empty(),
            unpublished: ArcSwap::default(),
            asked: Mutex::default(),
            stop: Mutex::default(),
        })
    }

    /// # Errors
    /// There is no thread to be had.
    pub fn start(config: &BootstrapDns) -> io::Result<Arc<Self>> {
        let table = Self::empty();
        if config.names.is_empty() && config.unpublished.is_empty() {
            return Ok(table);
        }
        let (stop, stopped) = mpsc::channel();
        *table.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
        let (weak, config) = (Arc::downgrade(&table), config.clone());
        std::thread::Builder::new().name("bootstrap-dns".to_owned()).spawn(move || keep(&weak, &config, &stopped))?;
        Ok(table)
    }

    /// The body for who asks, maybe for one `name`. The reference's order, and what it counts on the way.
    pub fn answer(&self, name: Option<&str>, client: Option<IpAddr>, mut count: impl FnMut(Count)) -> String {
        count(Count::Requests);
        let published = self.published.load();
        if let Some(name) = name {
            self.remember(name);
            if let Some(entry) = self.unpublished.load().get(name) {
                count(Count::UnpublishedHits);
                if rollout::includes(client, entry.share) {
                    return body(&BTreeMap::from([(name, &entry.addresses)]));
                }
                count(Count::UnpublishedPercentMisses);
            }
            let told = published.as_ref().and_then(|published| published.addresses.get(name));
            count(match told {
                Some(addresses) if addresses.is_empty() => Count::PublishedMisses,
                Some(_) => Count::PublishedHits,
                // In neither list: it was meant for the one that nobody sees.
                None => Count::UnpublishedMisses,
            });
        }
        published.as_ref().map(|published| published.body.clone()).unwrap_or_default()
    }

    /// How many names were asked for, as far as they are remembered.
    pub fn asked(&self) -> u64 {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn remember(&self, name: &str) {
        // No name is longer; strangers are not to fill the memory.
        const NAME: usize = 253;
        if name.len() <= NAME {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.insert(name.into());
            if asked.len() > limits::BOOTSTRAP_NAMES_REMEMBERED {
                asked.clear();
            }
        }
    }

    fn refresh(&self, config: &BootstrapDns, resolver: &dyn Resolver) {
        if !config.names.is_empty() {
            let found = config.names.iter().filter_map(|entry| Some(look_up(entry, resolver)?.0));
            let mut addresses: BTreeMap<String, Vec<IpAddr>> = found.collect();
            // Clients take the first one: each refresh gives another its turn.
            addresses.values_mut().for_each(|addresses| shuffle(addresses));
            let body = if addresses.is_empty() { "null".to_owned() } else { body(&addresses) };
            self.published.store(Some(Arc::new(Published { addresses, body })));
        }
        if !config.unpublished.is_empty() {
            let found = config.unpublished.iter().filter_map(|entry| look_up(entry, resolver));
            let entries = found.map(|((name, addresses), share)| (name, Unpublished { addresses, share }));
            self.unpublished.store(Arc::new(entries.filter(|(_, entry)| !entry.addresses.is_empty()).collect()));
        }
    }
}

fn keep(table: &Weak<Table>, config: &BootstrapDns, stopped: &mpsc::Receiver<()>) {
    loop {
        let Some(here) = table.upgrade() else { return };
        here.refresh(config, &System);
        drop(here);
        if stopped.recv_timeout(limits::BOOTSTRAP_REFRESH) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// `NAME`, or `NAME/TXT-NAME` where the second one's TXT record says how many percent of clients are told. A name that
/// does not resolve is left out until it does.
fn look_up(entry: &str, resolver: &dyn Resolver) -> Option<((String, Vec<IpAddr>), f64)> {
    let (name, percent) = entry.split_once('/').unwrap_or((entry, ""));
    let addresses = match resolver.addresses(name) {
        Ok(addresses) => addresses,
        Err(error) => {
            warn!(name, %error, "/bootstrap-dns does not tell this name: it does not resolve");
            return None;
        }
    };
    let share = if percent.is_empty() {
        1.0
    } else {
        let texts = resolver.texts(percent).unwrap_or_else(|error| {
            warn!(name, record = percent, %error, "/bootstrap-dns tells this name to nobody: no TXT record");
            Vec::new()
        });
        let mut percents = texts.iter().filter_map(|text| text.parse::<u8>().ok()).filter(|percent| *percent <= 100);
        percents.next_back().map_or(0.0, |percent| f64::from(percent) / 100.0)
    };
    Some(((name.to_owned(), addresses), share))
}

/// With tabs, as the reference writes it.
fn body(value: &impl Serialize) -> String {
    let mut out = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, tabs));
    debug_assert!(written.is_ok(), "strings and addresses can be written");
    String::from_utf8(out).unwrap_or_default()
}

fn shuffle(addresses: &mut [IpAddr]) {
    for end in (1..addresses.len()).rev() {
        let random = getrandom::u64().unwrap_or_default();
        addresses.swap(end, (random % (end as u64 + 1)) as usize);
    }
}

trait Resolver {
    fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>>;
    fn texts(&self, name: &str) -> io::Result<Vec<String>>;
}

/// The host's own: its hosts file, its search list, its servers.
struct System;

impl Resolver for System {
    fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok((name, 0).to_socket_addrs()?.map(|address| address.ip().to_canonical()).collect())
    }

    fn texts(&self, name: &str) -> io::Result<Vec<String>> {
        txt::look_up(name, &txt::servers_of(&std::fs::read_to_string("/etc/resolv.conf")?))
    }
}

#[cfg(test)]
mod tests;
