//! Request targets: what is asked for, and its clean form.

use std::borrow::Cow;

/// Path and query of a request target in origin or absolute form; `None` for anything else.
pub(super) fn split(target: &str) -> Option<(&str, Option<&str>)> {
    let (_, origin) = parts(target)?;
    let (path, query) = match origin.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (origin, None),
    };
    Some((if path.is_empty() { "/" } else { path }, query))
}

/// Who is asked, where the target says so: then it counts, and the Host header does not.
pub(super) fn authority(target: &str) -> Option<&str> {
    parts(target)?.0
}

/// Authority and the rest of a target.
fn parts(target: &str) -> Option<(Option<&str>, &str)> {
    match target.find("://") {
        _ if target.starts_with('/') => Some((None, target)),
        Some(at) if matches!(&target[..at].to_ascii_lowercase()[..], "http" | "https") => {
            let rest = &target[at + 3..];
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            Some((Some(&rest[..end]), &rest[end..]))
        }
        _ => None,
    }
}

/// `path` without empty, `.` and `..` segments, when that differs. A slash at the end stays.
pub(super) fn clean(path: &str) -> Option<String> {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut out = format!("/{}", kept.join("/"));
    if path.ends_with('/') && out.len() > 1 {
        out.push('/');
    }
    (out != path).then_some(out)
}

/// Resolves `%xx`; `None` if one is malformed.
pub(super) fn decode(path: &str) -> Option<Cow<'_, [u8]>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path.as_bytes()));
    }
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| (b as char).to_digit(16));
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    Some(Cow::Owned(out))
}

/// The first value of `name` in a query, when it says anything.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let pair = |pair: &'_ str| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    let plain = query.split('&').find_map(pair)?.replace('+', " ");
    let value = String::from_utf8(decode(&plain)?.into_owned()).ok()?;
    (!value.is_empty()).then_some(value)
}

/// A relative reference to `path` for a Location header. It starts with one slash, and a backslash, which browsers
/// take for another, is escaped: a stranger's link must not leave this host.
pub(super) fn location(path: &str, query: Option<&str>) -> String {
    let mut out = String::with_capacity(path.len());
    escape(path, &mut out);
    if let Some(query) = query {
        out.push('?');
        escape(query, &mut out);
    }
    out
}

fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => out.push(byte as char),
            _ if b"-._~!$&()*+,;=:@/%?".contains(&byte) => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_split() {
        assert_eq!(split("/derp"), Some(("/derp", None)));
        assert_eq!(split("/derp?a=http://b/c"), Some(("/derp", Some("a=http://b/c"))));
        assert_eq!(split("http://h:1/derp?x"), Some(("/derp", Some("x"))));
        assert_eq!(split("HTTPS://h"), Some(("/", None)));
        assert_eq!(split("http://h?x"), Some(("/", Some("x"))));
        assert_eq!(split("http:///derp"), None);
        assert_eq!(split("ftp://h/"), None);
        assert_eq!(split("derp"), None);
        assert_eq!(split("*"), None);
        assert_eq!(authority("http://h:1/derp"), Some("h:1"));
        assert_eq!(authority("/derp?a=http://b/c"), None);
    }

    #[test]
    fn unclean_paths_have_a_clean_form() {
        for (unclean, clean_form) in [
            ("//derp", "/derp"),
            ("/a/../b", "/b"),
            ("/a/./b/", "/a/b/"),
            ("/..", "/"),
            ("/../../x//", "/x/"),
            ("///", "/"),
        ] {
            assert_eq!(clean(unclean).as_deref(), Some(clean_form), "{unclean}");
            assert_eq!(clean(clean_form), None);
        }
    }

    #[test]
    fn percent_signs() {
        assert_eq!(decode("/%64erp").as_deref(), Some(&b"/derp"[..]));
        assert_eq!(decode("/a%2"), None);
        assert_eq!(decode("/a%zz"), None);
        assert_eq!(location("/\\evil\"<", Some("a=b c")), "/%5Cevil%22%3C?a=b%20c");
    }
}
