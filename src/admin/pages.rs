//! Which request gets which page.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::access::Via;
use super::clients::{self, Wanted};
use super::state::State;
use super::traffic::{self, Form};
use super::{check, health, html};
use crate::control::metrics::Format;

/// A request, reduced to what any page asks for.
pub(super) struct Ask<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub accept: &'a str,
    pub via: Via,
    /// Of a request that changes something: what it says, or why that cannot be had.
    pub body: Result<String, &'static str>,
}

#[derive(Debug)]
pub(super) struct Page {
    pub status: u16,
    pub content_type: &'static str,
    pub content: Content,
    /// A header that belongs to the status.
    pub header: Option<(&'static str, &'static str)>,
}

#[derive(Debug)]
pub(super) enum Content {
    Whole(String),
    Stream(mpsc::Receiver<Bytes>),
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

impl Page {
    fn whole(content_type: &'static str, body: String) -> Self {
        Self { status: 200, content_type, content: Content::Whole(body), header: None }
    }

    /// One line.
    pub fn text(status: u16, line: &str) -> Self {
        Self { status, ..Self::whole(TEXT, format!("{line}\n")) }
    }
}

/// The answer on an admin listener.
pub(super) async fn answer(state: &Arc<State>, ask: &Ask<'_>) -> Page {
    const READ: &str = "GET, HEAD";
    const READ_AND_WRITE: &str = "GET, HEAD, PUT, POST";
    let allowed = match ask.path {
        "/debug/log" => READ_AND_WRITE,
        "/" | "/metrics" | "/debug" | "/debug/clients" | "/healthz" | "/readyz" => READ,
        path if path.strip_prefix("/debug/").is_some_and(is_shared) => READ,
        _ => return Page::text(404, "404 page not found: /debug/ lists what there is"),
    };
    if !allowed.split(", ").any(|method| method == ask.method) {
        let line = format!("405: {} is not for {}, which takes {allowed}", ask.method, ask.path);
        return Page { header: Some(("Allow", allowed)), ..Page::text(405, &line) };
    }
    match ask.path {
        "/" | "/metrics" => metrics(state, ask.accept),
        "/debug" => Page { header: Some(("Location", "/debug/")), ..Page::text(307, "see /debug/") },
        "/debug/clients" => list(state, ask).await,
        "/debug/log" => log(state, ask),
        "/healthz" => match health::alive(&state.workers, state.phase()).await {
            Ok(()) => Page::text(200, "ok"),
            Err(why) => Page::text(503, &why),
        },
        "/readyz" => match health::ready(state.phase()) {
            Ok(()) => Page::text(200, "ok"),
            Err(why) => Page::text(503, why),
        },
        path => {
            let form = if ask.method == "HEAD" { None } else { Some(Form::Rates) };
            shared(state, path.trim_start_matches("/debug/"), form, false).await
        }
    }
}

/// Pages that the main listener has, too; the empty one is the index.
fn is_shared(page: &str) -> bool {
    matches!(page, "" | "vars" | "varz" | "check" | "traffic")
}

/// A page behind `/debug/`. `form`: how traffic is to be shown, if its body is wanted at all.
pub(super) async fn shared(state: &Arc<State>, page: &str, form: Option<Form>, on_main: bool) -> Page {
    match (page, form) {
        ("", _) => Page::whole(HTML, html::index(state, on_main)),
        ("vars", _) => Page::whole(JSON, state.collector.vars_json()),
        // As the reference writes it.
        ("varz", _) => Page::whole("text/plain;version=0.0.4;charset=utf-8", state.collector.varz()),
        ("check", _) => match check::problems(state).await {
            problems if problems.is_empty() => Page::text(200, "derp okay"),
            problems => Page::text(500, &problems.join("\n")),
        },
        ("traffic", None) => Page::whole(TEXT, String::new()),
        ("traffic", Some(form)) => match traffic::open(state, form) {
            Some(parts) => Page { content: Content::Stream(parts), ..Page::whole(TEXT, String::new()) },
            None => Page::text(503, "too many look at the traffic: try again when one of them has left"),
        },
        _ => Page::text(404, "404 page not found"),
    }
}

fn metrics(state: &State, accept: &str) -> Page {
    let format = Format::from_accept(accept);
    Page::whole(format.content_type(), state.collector.prometheus(format))
}

async fn list(state: &State, ask: &Ask<'_>) -> Page {
    let wanted = match Wanted::read(ask.query) {
        Ok(wanted) => wanted,
        Err(why) => return Page::text(400, &format!("400: {why}")),
    };
    let form = wanted.form(ask.accept);
    let content_type = if form == clients::Form::Html { HTML } else { JSON };
    Page::whole(content_type, clients::page(state, &wanted, form).await)
}

/// Who may only look may not look into this: a filter at trace tells a lot, and slows the relay down.
fn log(state: &State, ask: &Ask<'_>) -> Page {
    if ask.via == Via::Allowed {
        return Page::text(403, "403: the log is for this machine and for --admin-token-file, not for --admin-allow");
    }
    if matches!(ask.method, "GET" | "HEAD") {
        return Page::text(200, &state.log.filter());
    }
    let set = ask.body.as_ref().map_err(|why| (*why).to_owned()).and_then(|text| state.log.set_filter(text));
    match set {
        Ok(()) => {
            tracing::warn!(filter = state.log.filter(), "the log has another filter");
            Page::text(200, &state.log.filter())
        }
        Err(why) => Page::text(400, &format!("400: {why}")),
    }
}
