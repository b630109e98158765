//! Responses: status, headers, body, and how they are written.

use std::borrow::Cow;
use std::fmt::Write;

use super::head::Head;

#[derive(Debug)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Cow<'static, str>,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Cow::Borrowed("") }
    }

    /// An error as the reference words it: one line of plain text.
    pub fn text(status: u16, line: &str) -> Self {
        Self::new(status)
            .header("Content-Type", "text/plain; charset=utf-8")
            .header("X-Content-Type-Options", "nosniff")
            .body(format!("{line}\n"))
    }

    /// `to` must be fit for a header.
    pub fn redirect(status: u16, to: String, method: &str) -> Self {
        let mut reply = Self::new(status);
        if method == "GET" {
            let link = to.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
            reply = reply.body(format!("<a href=\"{link}\">{}</a>.\n\n", reason(status)));
        }
        if matches!(method, "GET" | "HEAD") {
            reply = reply.header("Content-Type", "text/html; charset=utf-8");
        }
        reply.header("Location", to)
    }

    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Cow<'static, str>>) -> Self {
        self.body = body.into();
        self
    }

    /// What keeps a page that people open in a browser from being framed or made to run anything.
    pub fn browser_headers(self) -> Self {
        self.browser_headers_with(POLICY)
    }

    /// The same for a page that brings its own style.
    pub fn styled_browser_headers(self) -> Self {
        self.browser_headers_with(format!("{POLICY}; style-src 'self' 'unsafe-inline'"))
    }

    fn browser_headers_with(self, policy: impl Into<Cow<'static, str>>) -> Self {
        self.header("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
            .header("Content-Security-Policy", policy)
            .header("X-Frame-Options", "DENY")
            .header("X-Content-Type-Options", "nosniff")
    }

    /// In answer to `head`.
    pub fn encode(&self, head: &Head<'_>, keep_alive: bool) -> Vec<u8> {
        self.write(head.minor, keep_alive, head.method == "HEAD")
    }

    /// In answer to something that was no proper request: nothing follows it.
    pub fn last(&self) -> Vec<u8> {
        self.write(1, false, false)
    }

    pub fn write(&self, minor: u8, keep_alive: bool, head_only: bool) -> Vec<u8> {
        let length = (self.status != 204).then(|| format!("Content-Length: {}\r\n", self.body.len()));
        let mut out = self.write_head(minor, keep_alive, &length.unwrap_or_default());
        if !head_only {
            out.push_str(&self.body);
        }
        out.into_bytes()
    }

    /// `framing`: the line that says where the body ends, if one does.
    pub fn write_head(&self, minor: u8, keep_alive: bool, framing: &str) -> String {
        let mut out = format!("HTTP/1.{minor} {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            debug_assert!(!value.contains(['\r', '\n']));
            // Writing to a String cannot fail.
            let _ = write!(out, "{name}: {value}\r\n");
        }
        out.push_str(framing);
        match (keep_alive, minor) {
            (false, 1..) => out.push_str("Connection: close\r\n"),
            (true, 0) => out.push_str("Connection: keep-alive\r\n"),
            _ => {}
        }
        out.push_str("\r\n");
        out
    }
}

const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'; \
                      block-all-mixed-content; object-src 'none'";

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
