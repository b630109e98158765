//! `/debug/` on the main listener: who may see it, and the form of answers that are made elsewhere.

use std::net::IpAddr;

use super::head::Head;
use super::path;
use super::reply::Reply;
use crate::config::DebugAccess;

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
    /// An answer that is there as a whole.
    pub fn whole(&self, status: u16, content_type: &'static str, body: String) -> Vec<u8> {
        self.reply(status, content_type).body(body).write(self.minor, self.skip.is_some(), self.head_only)
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
        let skip = head.skip().filter(|_| !last);
        let pending = Pending { minor: head.minor, head_only: head.method == "HEAD", skip };
        DebugRequest { page: self.page, key: self.key, pending }
    }
}

pub(super) enum Access {
    Yes,
    /// To who knows the debug key.
    WithKey(String),
    No,
}

/// A proxy on this machine makes every peer look local; its header gives it away.
pub(super) fn access(rule: &DebugAccess, query: Option<&str>, head: &Head<'_>, ip: IpAddr) -> Access {
    if rule.allows(ip) && !head.forwarded {
        return Access::Yes;
    }
    let key = query.filter(|_| rule.key_file.is_some() && head.method == "GET").and_then(debug_key);
    key.map_or(Access::No, Access::WithKey)
}

/// The first `debugkey` of a query.
fn debug_key(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("debugkey="))?;
    let plain = value.replace('+', " ");
    let key = String::from_utf8(path::decode(&plain)?.into_owned()).ok()?;
    (!key.is_empty()).then_some(key)
}
