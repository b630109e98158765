//! `/debug/` on the main listener: who may see it, and the form of answers that are made elsewhere.

use super::head::Head;
use super::reply::Reply;
use super::{Client, Site, path};

/// A request for a page that somebody else makes.
#[derive(Debug, PartialEq, Eq)]
pub struct DebugRequest {
    /// Behind `/debug/`.
    pub page: String,
    /// Access depends on whether this is the debug key.
    pub key: Option<String>,
    pub pending: Pending,
}

/// What the answer's form depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    minor: u8,
    head_only: bool,
    /// Bytes of the request's body: to be skipped before the next head. `None`: the connection ends with the answer.
    pub skip: Option<u64>,
}

impl Pending {
    pub(super) fn of(head: &Head<'_>, last: bool) -> Self {
        Self { minor: head.minor, head_only: head.method == "HEAD", skip: head.skip().filter(|_| !last) }
    }

    /// An answer that is there as a whole.
    pub fn whole(&self, status: u16, content_type: &'static str, body: String) -> Vec<u8> {
        self.reply(status, content_type).body(body).write(self.minor, self.skip.is_some(), self.head_only)
    }

    /// The same, without leave for styles of its own.
    pub(super) fn browser(&self, content_type: &'static str, body: String) -> Vec<u8> {
        let reply = Reply::new(200).header("Content-Type", content_type).browser_headers();
        reply.body(body).write(self.minor, self.skip.is_some(), self.head_only)
    }

    /// A refusal in the reference's form.
    pub fn text(&self, status: u16, line: &str) -> Vec<u8> {
        Reply::text(status, line).write(self.minor, self.skip.is_some(), self.head_only)
    }

    /// The head of an answer whose length nobody knows yet. HTTP/1.0 ends such an answer with the connection.
    pub fn stream(&mut self, content_type: &'static str) -> Vec<u8> {
        let framing = if self.minor == 0 { "" } else { "Transfer-Encoding: chunked\r\n" };
        if self.minor == 0 {
            self.skip = None;
        }
        self.reply(200, content_type).write_head(self.minor, self.skip.is_some(), framing).into_bytes()
    }

    /// Whether only the head is wanted.
    pub fn head_only(&self) -> bool {
        self.head_only
    }

    /// A part of it; the empty one is the last.
    pub fn part(&self, data: &[u8]) -> Vec<u8> {
        match (self.minor, data.len()) {
            (0, _) => data.to_vec(),
            (_, 0) => b"0\r\n\r\n".to_vec(),
            (_, len) => [format!("{len:x}\r\n").as_bytes(), data, b"\r\n"].concat(),
        }
    }

    fn reply(&self, status: u16, content_type: &'static str) -> Reply {
        Reply::new(status).header("Content-Type", content_type).styled_browser_headers()
    }
}

/// A page that was routed here.
#[derive(Debug)]
pub(super) struct Page {
    pub page: String,
    pub key: Option<String>,
}

impl Page {
    pub fn of(self, head: &Head<'_>, last: bool) -> DebugRequest {
        DebugRequest { page: self.page, key: self.key, pending: Pending::of(head, last) }
    }
}

pub(super) enum Access {
    Yes,
    /// To who knows the debug key.
    WithKey(String),
    No,
}

impl Access {
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }
}

/// Behind a proxy everybody would have its address, which may well be local: only an address that is known to be that
/// of who asks opens anything.
pub(super) fn access(site: &Site, query: Option<&str>, head: &Head<'_>, client: Client) -> Access {
    let Some(rule) = &site.debug else { return Access::No };
    if client.known && client.address.is_some_and(|address| rule.allows(address.ip())) {
        return Access::Yes;
    }
    let asked = query.filter(|_| rule.key_file.is_some() && head.method == "GET");
    asked.and_then(|query| path::parameter(query, "debugkey")).map_or(Access::No, Access::WithKey)
}
