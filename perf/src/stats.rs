//! Medians, ratios within rounds, and their spread.

use serde::Serialize;

/// The median of some rounds, and the least and the greatest of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
    pub rounds: usize,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values = sorted(values);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] };
        Some(Self { median, least, greatest, rounds: values.len() })
    }
}

/// The median of some rounds, and between what their middle half lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Middle {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Middle {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values = sorted(values);
        let Spread { median, rounds, .. } = Spread::of(values.iter().copied())?;
        Some(Self { median, low: values[rounds / 4], high: values[rounds - 1 - rounds / 4] })
    }
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Ratios of what was measured in the same round, and only then summed up: a machine that is slow for a minute is slow
/// for all that is compared. A round in which either is missing does not count; nor does one whose reference is zero.
pub fn ratios(own: &[(u32, f64)], reference: &[(u32, f64)]) -> Option<Spread> {
    Spread::of(within_rounds(own, reference))
}

/// These ratios, one by one. Rounds may be named by more than their number.
pub fn within_rounds<R: PartialEq>(own: &[(R, f64)], reference: &[(R, f64)]) -> impl Iterator<Item = f64> {
    own.iter().filter_map(|(round, value)| {
        let (_, base) = reference.iter().find(|(other, base)| other == round && *base != 0.0)?;
        Some(value / base)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_odd_and_even_many() {
        let median = |values: &[f64]| Spread::of(values.iter().copied()).unwrap().median;
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), 3.0);
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None);
    }

    #[test]
    fn the_spread_is_least_and_greatest() {
        let spread = Spread::of([5.0, -1.0, 3.0]).unwrap();
        assert_eq!(spread, Spread { median: 3.0, least: -1.0, greatest: 5.0, rounds: 3 });
    }

    #[test]
    fn the_middle_half_leaves_out_a_quarter_on_each_side() {
        let middle = |values: &[f64]| Middle::of(values.iter().copied());
        let of = |median, low, high| Some(Middle { median, low, high });
        assert_eq!(middle(&[9.0, 1.0, 2.0, 3.0, 100.0]), of(3.0, 2.0, 9.0));
        assert_eq!(middle(&[4.0, 1.0, 2.0, 100.0]), of(3.0, 2.0, 4.0));
        assert_eq!(middle(&[f64::INFINITY, 7.0]), of(7.0, 7.0, 7.0));
        assert_eq!(middle(&[]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was ten times slower in the second round: the ratios do not know.
        let ratio = ratios(&[(1, 1.0), (2, 10.0), (3, 1.2)], &[(3, 2.0), (1, 2.0), (2, 20.0)]).unwrap();
        assert_eq!((ratio.median, ratio.least, ratio.greatest, ratio.rounds), (0.5, 0.5, 0.6, 3));
    }

    #[test]
    fn rounds_without_both_do_not_count() {
        let ratio = ratios(&[(1, 1.0), (2, 9.0), (4, 3.0)], &[(1, 2.0), (3, 1.0), (4, 0.0)]).unwrap();
        assert_eq!((ratio.median, ratio.rounds), (0.5, 1));
        assert_eq!(ratios(&[(1, 1.0)], &[(2, 1.0)]), None);
    }
}
