//! Histograms in the form that all HdrHistogram tools read: V2, deflated, in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};

pub fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("memory takes every histogram");
    STANDARD.encode(bytes)
}

pub fn decode(text: &str) -> Option<Histogram<u64>> {
    let bytes = STANDARD.decode(text).ok()?;
    Deserializer::new().deserialize(&mut bytes.as_slice()).ok()
}

/// For `#[serde(with)]`.
pub fn serialize<S: serde::Serializer>(histogram: &Histogram<u64>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&encode(histogram))
}

pub fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Histogram<u64>, D::Error> {
    let text: String = serde::Deserialize::deserialize(from)?;
    decode(&text).ok_or_else(|| serde::de::Error::custom("not a histogram"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_comes_back() {
        let mut histogram = super::super::histogram();
        for value in [1, 1_000, 1_500, 2_000_000, 600_000_000_000] {
            histogram.saturating_record(value);
        }
        let text = encode(&histogram);
        // The cookie of the compressed V2 form.
        assert!(text.starts_with("HISTFAAA"), "{text}");
        assert_eq!(decode(&text), Some(histogram));
        assert_eq!(decode("HISTFAAA"), None);
        assert_eq!(decode("not base64!"), None);
    }
}
