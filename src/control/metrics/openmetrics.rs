//! OpenMetrics 1.0 out of Prometheus' text, and which of the two somebody wants.
//!
//! Of what we print, three things differ: the family of a counter is named without `_total`, bounds of buckets are
//! always written with a point, and the end is marked.

/// A form of the body of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    OpenMetrics,
}

impl Format {
    /// By the value of an `Accept` header: OpenMetrics where it is asked for by name, in a version that this is, and
    /// not liked less than text.
    pub fn from_accept(accept: &str) -> Self {
        let (mut text, mut open) = (0.0_f64, 0.0_f64);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let (mut liking, mut version) = (1.0, None);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match key.trim_end() {
                    // What is not a number is not liked.
                    key if key.eq_ignore_ascii_case("q") => liking = value.trim().parse().unwrap_or(0.0),
                    key if key.eq_ignore_ascii_case("version") => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            if name.eq_ignore_ascii_case("application/openmetrics-text") {
                // 0.0.1 is what scrapers call it that began before it was finished: the same text.
                if matches!(version, None | Some("1.0.0" | "0.0.1")) {
                    open = open.max(liking);
                }
            } else if ["text/plain", "text/*", "*/*"].iter().any(|known| name.eq_ignore_ascii_case(known)) {
                text = text.max(liking);
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// `text` is what the exporter and we have written.
pub fn from_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.lines() {
        match line.strip_prefix("# ").and_then(|comment| comment.split_once(' ')) {
            Some((word, rest)) => {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let family = name.strip_suffix("_total").unwrap_or(name);
                for part in ["# ", word, " ", family, " ", rest] {
                    out.push_str(part);
                }
            }
            None => push_sample(&mut out, line),
        }
        out.push('\n');
    }
    out.push_str("# EOF\n");
    out
}

fn push_sample(out: &mut String, line: &str) {
    const BOUND: &str = "{le=\"";
    let whole = line.split_once(BOUND).and_then(|(name, rest)| {
        let (bound, rest) = rest.split_once('"')?;
        bound.bytes().all(|b| b.is_ascii_digit()).then_some((name, bound, rest))
    });
    match whole {
        Some((name, bound, rest)) => {
            for part in [name, BOUND, bound, ".0\"", rest] {
                out.push_str(part);
            }
        }
        None => out.push_str(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_what_scrapers_ask_for() {
        let of = Format::from_accept;
        for plain in ["", "*/*", "text/plain", "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/html, */*;q=0.8"] {
            assert_eq!(of(plain), Format::Text, "{plain}");
        }
        // What Prometheus 3 sends, and what it sends without Protobuf being tried.
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(of(prometheus), Format::OpenMetrics);
        assert_eq!(of("application/vnd.google.protobuf;q=0.7,application/openmetrics-text"), Format::OpenMetrics);
        assert_eq!(of("Application/OpenMetrics-Text ; Version=\"1.0.0\""), Format::OpenMetrics);
        assert_eq!(of("application/openmetrics-text;q=0.3,text/plain;q=0.9"), Format::Text);
        assert_eq!(of("application/openmetrics-text;q=0"), Format::Text);
        assert_eq!(of("application/openmetrics-text;q=much"), Format::Text);
        assert_eq!(of("application/openmetrics-text;version=2.0.0"), Format::Text);
    }

    #[test]
    fn three_things_differ() {
        let text = "# HELP a_total An a.\n# TYPE a_total counter\na_total{b=\"c\"} 1\n\
                    # HELP d_seconds A d.\n# TYPE d_seconds histogram\nd_seconds_bucket{le=\"0.5\"} 0\n\
                    d_seconds_bucket{le=\"1\"} 2\nd_seconds_bucket{le=\"+Inf\"} 2\nd_seconds_sum 1.5\n\
                    d_seconds_count 2\n";
        let open = "# HELP a An a.\n# TYPE a counter\na_total{b=\"c\"} 1\n\
                    # HELP d_seconds A d.\n# TYPE d_seconds histogram\nd_seconds_bucket{le=\"0.5\"} 0\n\
                    d_seconds_bucket{le=\"1.0\"} 2\nd_seconds_bucket{le=\"+Inf\"} 2\nd_seconds_sum 1.5\n\
                    d_seconds_count 2\n# EOF\n";
        assert_eq!(from_text(text), open);
    }
}
