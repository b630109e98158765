//! The JSON inside ClientInfo, read the way Go's `encoding/json` reads it: clients were only ever tested against that.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::LoginError;
use crate::proto::key::parse_hex32;

/// What a client says about itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientInfo {
    pub mesh_key: Option<[u8; 32]>,
    pub version: i64,
    pub can_ack_pings: bool,
    pub is_prober: bool,
    pub app_name: String,
}

impl fmt::Debug for ClientInfo {
    /// Whether there is a mesh key, never which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientInfo")
            .field("mesh_key", &self.mesh_key.is_some())
            .field("version", &self.version)
            .field("can_ack_pings", &self.can_ack_pings)
            .field("is_prober", &self.is_prober)
            .field("app_name", &self.app_name)
            .finish()
    }
}

/// # Errors
/// Not one JSON object (or `null`), or a known key with a value of the wrong type.
pub(super) fn parse(plain: &[u8]) -> Result<ClientInfo, LoginError> {
    // Go puts U+FFFD where a string is not UTF-8; outside of strings that is as wrong as the byte it stands for.
    let text = String::from_utf8_lossy(plain);
    let mut json = serde_json::Deserializer::from_str(&text);
    let info = json.deserialize_any(Info).and_then(|info| json.end().map(|()| info));
    info.map_err(|error| LoginError::Json(error.to_string()))
}

struct Info;

impl<'de> Visitor<'de> for Info {
    type Value = ClientInfo;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// `null` leaves every field as it is.
    fn visit_unit<E: Error>(self) -> Result<ClientInfo, E> {
        Ok(ClientInfo::default())
    }

    /// Of two equal keys the later one wins, field by field.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ClientInfo, A::Error> {
        let mut info = ClientInfo::default();
        while let Some(key) = map.next_key_seed(Text)? {
            // The value's own text: only there `2`, which is an int, differs from `2.0`, which is none.
            let raw: &RawValue = map.next_value()?;
            let value = raw.get();
            match fold(&key).as_str() {
                // Go hands this field every value, null included.
                "MESHKEY" => info.mesh_key = Some(mesh_key(value)?),
                "VERSION" => set(&mut info.version, value, |v| v.parse().ok())?,
                "CANACKPINGS" => set(&mut info.can_ack_pings, value, |v| v.parse().ok())?,
                "ISPROBER" => set(&mut info.is_prober, value, |v| v.parse().ok())?,
                "APPNAME" => set(&mut info.app_name, value, string)?,
                _ => {}
            }
        }
        Ok(info)
    }
}

/// `null` changes nothing; whatever `parse` does not know has the wrong type.
fn set<T, E: Error>(field: &mut T, value: &str, parse: impl Fn(&str) -> Option<T>) -> Result<(), E> {
    if value != "null" {
        *field = parse(value).ok_or_else(|| E::custom("a value has the wrong type"))?;
    }
    Ok(())
}

fn mesh_key<E: Error>(value: &str) -> Result<[u8; 32], E> {
    let key = string(value).and_then(|text| parse_hex32(&text));
    key.ok_or_else(|| E::custom("meshKey is not 64 hex characters"))
}

fn string(value: &str) -> Option<String> {
    let mut json = serde_json::Deserializer::from_str(value);
    Text.deserialize(&mut json).ok()
}

/// Go matches keys by simple Unicode folding. Two characters outside of ASCII fold into it.
fn fold(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '\u{17f}' => 'S',
            '\u{212a}' => 'K',
            c => c.to_ascii_uppercase(),
        })
        .collect()
}

/// A JSON string that may hold half a surrogate pair, which becomes U+FFFD.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<String, D::Error> {
        json.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<String, E> {
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> ClientInfo {
        parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn keys_match_in_any_case_and_unknown_ones_are_skipped() {
        let hex = "0123456789abcdefABCDEF0123456789".repeat(2);
        let text = format!(
            r#" {{"MeshKey":"{hex}","VERSION":2,"canackpings":true,"i\u017Fprober":true,"AppName":"x",
                "later":[{{}},"\ud800"]}} "#
        );
        let info = ok(&text);
        assert_eq!(info.mesh_key, parse_hex32(&hex));
        assert_eq!((info.version, info.can_ack_pings, info.is_prober), (2, true, true));
        assert_eq!(info.app_name, "x");
    }

    #[test]
    fn null_means_unchanged() {
        assert_eq!(ok("null"), ClientInfo::default());
        assert_eq!(ok("{}"), ClientInfo::default());
        let info =
            ok(r#"{"version":7,"version":null,"CanAckPings":true,"CanAckPings":null,"AppName":null,"IsProber":null}"#);
        assert_eq!(info, ClientInfo { version: 7, can_ack_pings: true, ..ClientInfo::default() });
    }

    #[test]
    fn last_duplicate_wins() {
        assert_eq!(ok(r#"{"version":1,"Version":3}"#).version, 3);
        assert_eq!(ok(r#"{"AppName":"a","appname":""}"#).app_name, "");
    }

    #[test]
    fn numbers_are_go_ints() {
        assert_eq!(ok(r#"{"version":-0}"#).version, 0);
        assert_eq!(ok(r#"{"version":9223372036854775807}"#).version, i64::MAX);
        assert_eq!(ok(r#"{"version":-9223372036854775808}"#).version, i64::MIN);
        for bad in ["9223372036854775808", "2.0", "2e0", "1E3", "-0.0", "01", "+1", "\"2\"", "true", "[]", "{}", "NaN"]
        {
            assert!(parse(format!(r#"{{"version":{bad}}}"#).as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn strings_that_are_not_unicode_are_mended() {
        assert_eq!(ok(r#"{"AppName":"a\ud800b"}"#).app_name.chars().next(), Some('a'));
        assert_eq!(parse(b"{\"AppName\":\"a\xff\"}").unwrap().app_name, "a\u{fffd}");
        assert_eq!(ok(r#"{"AppName":"\u00e4\/"}"#).app_name, "\u{e4}/");
    }

    #[test]
    fn mesh_key_must_be_one_when_present() {
        let short = "a".repeat(63);
        let long = "a".repeat(65);
        let odd = "g".repeat(64);
        for bad in ["\"\"", "null", "5", "[]", &format!("\"{short}\""), &format!("\"{long}\""), &format!("\"{odd}\"")] {
            assert!(parse(format!(r#"{{"meshKey":{bad}}}"#).as_bytes()).is_err(), "{bad}");
        }
        // The first error stays, whatever follows.
        assert!(parse(format!(r#"{{"meshKey":"","meshKey":"{}"}}"#, "a".repeat(64)).as_bytes()).is_err());
        assert_eq!(ok(&format!(r#"{{"meshKey":"\u0061{}"}}"#, "a".repeat(63))).mesh_key, Some([0xaa; 32]));
    }

    #[test]
    fn wrong_types_and_bad_syntax_are_errors() {
        for bad in [
            "",
            " ",
            "[]",
            "5",
            "\"x\"",
            "true",
            "{",
            "{}x",
            "{} {}",
            "{}\0",
            "nul",
            "\u{feff}{}",
            "{,}",
            r#"{"version":2,}"#,
            r#"{version:2}"#,
            r#"{"CanAckPings":1}"#,
            r#"{"CanAckPings":"true"}"#,
            r#"{"IsProber":{}}"#,
            r#"{"AppName":5}"#,
            r#"{"AppName":["a"]}"#,
            "{\"AppName\":\"\n\"}",
            r#"{"a":'b'}"#,
            r#"{"x":[1,}"#,
            r#"{"x":"\q"}"#,
            "\u{fffd}{}",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse(b"{}\xff").is_err());
    }
}
