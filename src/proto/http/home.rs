//! What `/` shows, and every path that nothing else has.

use super::debug::access;
use super::head::Head;
use super::reply::Reply;
use super::{Client, Site};
use crate::config::HomePage;

pub(super) fn page(head: &Head<'_>, site: &Site, client: Client) -> Reply {
    let html = Reply::new(200).header("Content-Type", "text/html; charset=utf-8").browser_headers();
    match &site.home {
        HomePage::Default => {
            let body = [
                TOP,
                if site.tailscales { ABUSE } else { "" },
                if site.derp { "" } else { DISABLED },
                if access(site, None, head, client).is_yes() { DEBUG } else { "" },
                BOTTOM,
            ];
            html.body(body.concat())
        }
        HomePage::Blank => html,
        HomePage::Redirect(to) => Reply::redirect(302, to.clone(), head.method).browser_headers(),
    }
}

const TOP: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n\
<head><meta charset=\"utf-8\"><title>DERP relay</title></head>\n\
<body>\n<h1>DERP</h1>\n<p>This is a <a href=\"https://tailscale.com/kb/1232/derp-servers\">DERP</a> relay: it passes \
packets, which stay encrypted from end to end, between nodes that cannot reach each other directly.</p>\n";

/// On the relays of Tailscale's own names, whoever runs the binary.
const ABUSE: &str = "<p>If you suspect abuse, please contact \
<a href=\"mailto:security@tailscale.com\">security@tailscale.com</a>. Tailscale's \
<a href=\"https://tailscale.com/security-policies\">security policies</a> and \
<a href=\"https://tailscale.com/tailscale-aup\">acceptable use policies</a> apply.</p>\n";

const DISABLED: &str = "<p>Status: <b>disabled</b></p>\n";
const DEBUG: &str = "<p>Debug info at <a href=\"/debug/\">/debug/</a>.</p>\n";
const BOTTOM: &str = "</body>\n</html>\n";

/// Whether `hostname` is one of Tailscale's own relays: `derp`, what tells it from others, `.tailscale.com`.
pub fn is_tailscales(hostname: &str) -> bool {
    let name = hostname.strip_suffix('.').unwrap_or(hostname);
    let middle = name.strip_prefix("derp").and_then(|rest| rest.strip_suffix(".tailscale.com"));
    middle.is_some_and(|middle| !middle.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::is_tailscales;

    #[test]
    fn names_of_tailscales_relays() {
        for name in ["derp.tailscale.com", "derp1.tailscale.com", "derp10b.tailscale.com."] {
            assert!(is_tailscales(name), "{name}");
        }
        for name in ["derp.example.com", "derp.a.tailscale.com", "xderp.tailscale.com", "derp.tailscale.com.."] {
            assert!(!is_tailscales(name), "{name}");
        }
    }
}
