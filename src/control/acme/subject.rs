//! What certificates are asked for, and how that stands.

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use instant_acme::Identifier;

use super::pace::Life;

/// A name, or an address of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Dns(String),
    Address(IpAddr),
}

impl Name {
    /// Addresses have certificates of a few days, of a profile of their own.
    pub fn profile(&self) -> Option<&'static str> {
        match self {
            Self::Dns(_) => None,
            Self::Address(_) => Some("shortlived"),
        }
    }

    pub fn identifier(&self) -> Identifier {
        match self {
            Self::Dns(name) => Identifier::Dns(name.clone()),
            Self::Address(ip) => Identifier::Ip(*ip),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Address(ip) => ip.fmt(f),
        }
    }
}

#[derive(Debug)]
pub(super) struct Subject {
    pub name: Name,
    /// The next order.
    pub due: SystemTime,
    /// The next question when that should be; `None` while there is no certificate.
    pub advice: Option<SystemTime>,
    pub failures: u32,
    pub present: Option<Present>,
}

/// The certificate that is in use.
#[derive(Clone, Debug)]
pub(super) struct Present {
    pub life: Life,
    pub leaf: Vec<u8>,
}

impl Subject {
    pub fn new(name: Name, now: SystemTime) -> Self {
        Self { name, due: now, advice: None, failures: 0, present: None }
    }

    /// When it next wants something.
    pub fn next(&self) -> SystemTime {
        self.advice.map_or(self.due, |advice| advice.min(self.due))
    }
}
