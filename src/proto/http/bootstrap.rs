//! `/bootstrap-dns`: what is asked, and the form of the answer.

use super::debug::Pending;
use super::path;

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    name: Option<String>,
}

impl Question {
    pub fn of(query: Option<&str>) -> Self {
        Self { name: query.and_then(|query| path::parameter(query, "q")) }
    }

    pub fn pending(self, mut pending: Pending) -> BootstrapRequest {
        // Asked once, by clients of other regions: a connection that stayed would be for nothing.
        pending.skip = None;
        BootstrapRequest { name: self.name, pending }
    }
}

/// A question for the addresses of names.
#[derive(Debug, PartialEq, Eq)]
pub struct BootstrapRequest {
    /// The one that is asked for by name.
    pub name: Option<String>,
    pending: Pending,
}

impl BootstrapRequest {
    /// `body`: JSON, or nothing where no names are told.
    pub fn answer(&self, body: String) -> Vec<u8> {
        self.pending.browser("application/json", body)
    }
}
