//! How long packets are: all alike, or a mix.

use std::str::FromStr;

use super::payload::MIN_LEN;
use crate::derp::frame::MAX_DATA;

/// A mix like that of WireGuard in a relay: acknowledgements and keep-alives in their tunnel (96),
/// its handshake (148), middling (580) and full packets (1400). The weights are this tool's own
/// convention, after the common Internet mixes.
const IMIX: [(usize, u64); 4] = [(96, 8), (148, 1), (580, 3), (1400, 4)];

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sizes {
    /// Length, and the sum of the weights up to and with it.
    entries: Vec<(usize, u64)>,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SizesError {
    #[error("give `imix`, or LENGTH[:WEIGHT] with commas between them, such as 100:3,1400:1")]
    Form,
    #[error(
        "a packet of {0} bytes cannot be sent: between {MIN_LEN} (number, time and check) and {MAX_DATA} \
         (the protocol's limit) can"
    )]
    Length(usize),
    #[error("a weight must be between 1 and 1000000")]
    Weight,
}

impl Sizes {
    pub fn fixed(len: usize) -> Self {
        Self { entries: vec![(len, 1)] }
    }

    pub fn new(weighted: &[(usize, u64)]) -> Result<Self, SizesError> {
        let mut total = 0;
        let mut entries = Vec::with_capacity(weighted.len());
        for &(len, weight) in weighted {
            if !(MIN_LEN..=MAX_DATA).contains(&len) {
                return Err(SizesError::Length(len));
            }
            if !(1..=1_000_000).contains(&weight) {
                return Err(SizesError::Weight);
            }
            total += weight;
            entries.push((len, total));
        }
        if entries.is_empty() { Err(SizesError::Form) } else { Ok(Self { entries }) }
    }

    /// The length that belongs to a random number.
    pub fn of(&self, random: u64) -> usize {
        if let [(len, _)] = self.entries[..] {
            return len;
        }
        let (_, total) = self.entries[self.entries.len() - 1];
        let pick = random % total;
        let entry = self.entries.iter().find(|(_, until)| pick < *until);
        entry.expect("a remainder is below the total").0
    }

    pub fn shortest(&self) -> usize {
        self.entries.iter().map(|entry| entry.0).min().expect("never empty")
    }

    pub fn longest(&self) -> usize {
        self.entries.iter().map(|entry| entry.0).max().expect("never empty")
    }
}

impl FromStr for Sizes {
    type Err = SizesError;

    fn from_str(text: &str) -> Result<Self, SizesError> {
        if text == "imix" {
            return Self::new(&IMIX);
        }
        let entry = |part: &str| {
            let (len, weight) = part.split_once(':').unwrap_or((part, "1"));
            Some((len.parse().ok()?, weight.parse().ok()?))
        };
        let entries: Option<Vec<_>> = text.split(',').map(entry).collect();
        Self::new(&entries.ok_or(SizesError::Form)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_by_weight() {
        let sizes: Sizes = "100:3,1400".parse().unwrap();
        let picks: Vec<usize> = (0..5).map(|random| sizes.of(random)).collect();
        assert_eq!(picks, [100, 100, 100, 1400, 100]);
        assert_eq!((sizes.shortest(), sizes.longest()), (100, 1400));
    }

    #[test]
    fn what_is_not_a_mix() {
        assert_eq!("".parse::<Sizes>(), Err(SizesError::Form));
        assert_eq!("100;1400".parse::<Sizes>(), Err(SizesError::Form));
        assert_eq!("100:0".parse::<Sizes>(), Err(SizesError::Weight));
        assert_eq!("23".parse::<Sizes>(), Err(SizesError::Length(23)));
        assert_eq!("65537".parse::<Sizes>(), Err(SizesError::Length(65537)));
    }
}
