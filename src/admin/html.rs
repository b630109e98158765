//! The little HTML that people get.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::clients::time;
use super::state::State;

/// `text` where text or a value may stand.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A whole document.
pub(super) fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>derpring: {title}</title>\n<style>\n\
         body {{ font: 14px/1.5 system-ui, sans-serif; margin: 2em; }}\n\
         table {{ border-collapse: collapse; white-space: nowrap; }}\n\
         td, th {{ text-align: left; padding: 0 .8em .1em 0; font-variant-numeric: tabular-nums; }}\n\
         </style></head>\n<body>\n<h1>derpring: {title}</h1>\n{body}</body></html>\n"
    )
}

/// `/debug/`. On the main listener only derper's pages are linked: there are no others.
pub(super) fn index(state: &State, on_main: bool) -> String {
    let about = &state.about;
    let clients: u64 = state.workers.stats().iter().map(|worker| worker.connections.get()).sum();
    let hostname = about.hostname.as_deref().unwrap_or("none");
    let listening: Vec<String> = about.listening.iter().map(ToString::to_string).collect();
    let stopping = if state.phase().is_stopping() { " (stopping)" } else { "" };
    let rows = [
        ("Uptime", format!("{}{stopping}", time(state.began.elapsed()))),
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Machine", about.machine.clone()),
        ("TLS hostname", hostname.to_owned()),
        ("Mesh key", about.mesh_key.to_string()),
        ("Public key", about.public_key.clone()),
        ("Listening", listening.join(", ")),
        ("Backend", about.backend.clone()),
        ("Threads", format!("{} workers, {} edges", about.workers, about.edges)),
        ("Clients", format!("{clients} of {}", state.collector.max_clients())),
        ("Lost log lines", state.log.lost_lines().to_string()),
        ("Admin connections turned away", state.turned_away.load(Ordering::Relaxed).to_string()),
    ];
    let mut body = "<table>\n".to_owned();
    for (name, value) in rows {
        let _ = writeln!(body, "<tr><th>{name}<td>{}", escape(&value));
    }
    body.push_str("</table>\n<ul>\n");
    for (path, what) in PAGES.iter().filter(|(path, _)| !on_main || MAIN_PAGES.contains(path)) {
        let _ = writeln!(body, "<li><a href=\"{path}\">{path}</a>: {what}");
    }
    body.push_str("</ul>\n");
    page("debug", &body)
}

const PAGES: [(&str, &str); 9] = [
    ("/metrics", "Prometheus, or OpenMetrics where that is asked for"),
    ("/debug/vars", "counters as JSON"),
    ("/debug/varz", "counters under derper's names"),
    ("/debug/clients", "who is connected"),
    ("/debug/traffic", "who moves how much, every second"),
    ("/debug/check", "whether the relay's own accounts agree"),
    ("/debug/log", "what is logged; PUT changes it"),
    ("/healthz", "whether every worker turns"),
    ("/readyz", "whether clients should come"),
];
const MAIN_PAGES: [&str; 4] = ["/debug/vars", "/debug/varz", "/debug/traffic", "/debug/check"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_written_is_taken_for_markup() {
        assert_eq!(escape("a<b>&\"c\"'"), "a&lt;b&gt;&amp;&quot;c&quot;&#39;");
        assert!(MAIN_PAGES.iter().all(|page| PAGES.iter().any(|(path, _)| path == page)));
    }
}
