//! Classic histograms, written by us: the exporter makes its own out of single values and takes no sums.

use std::fmt::{self, Write as _};

use super::pass::{Distribution, Pass};
use super::series::{Scale, Series, Source};

/// The samples of a histogram; nothing for any other series.
///
/// # Errors
/// None: a string takes everything.
pub fn write(out: &mut String, series: &Series, pass: &Pass) -> fmt::Result {
    match &series.source {
        Source::Histogram(scale, distribution) => write_samples(out, series.name, distribution(pass), scale.digits()),
        _ => Ok(()),
    }
}

/// `digits` of what was recorded are behind the point.
///
/// # Errors
/// None: a string takes everything.
pub fn write_samples(out: &mut String, name: &str, distribution: &Distribution, digits: u32) -> fmt::Result {
    for (bound, values) in distribution.cumulative() {
        writeln!(out, "{name}_bucket{{le=\"{}\"}} {values}", Decimal::new(bound, digits))?;
    }
    let (count, sum) = (distribution.count(), Decimal::new(distribution.sum(), digits));
    writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}")
}

impl Scale {
    /// What is recorded is this many digits behind the point of what is shown.
    fn digits(self) -> u32 {
        match self {
            Self::Unit => 0,
            Self::Microseconds => 6,
            Self::Nanoseconds => 9,
        }
    }
}

/// `value` divided by a power of ten, exactly: a bound that is printed rounded is another bound.
#[derive(Clone, Copy)]
pub struct Decimal {
    value: u64,
    digits: u32,
}

impl Decimal {
    pub fn new(value: u64, digits: u32) -> Self {
        Self { value, digits }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mut value, digits } = *self;
        let one = 10_u64.pow(digits);
        write!(f, "{}", value / one)?;
        value %= one;
        if value == 0 {
            return Ok(());
        }
        let mut digits = digits as usize;
        while value.is_multiple_of(10) {
            value /= 10;
            digits -= 1;
        }
        write!(f, ".{value:0digits$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact() {
        let shown = |value, digits| Decimal::new(value, digits).to_string();
        assert_eq!(shown(0, 6), "0");
        assert_eq!(shown(1, 6), "0.000001");
        assert_eq!(shown(1024, 9), "0.000001024");
        assert_eq!(shown(8_388_608, 6), "8.388608");
        assert_eq!(shown(1_500_000, 6), "1.5");
        assert_eq!(shown(2_000_000, 6), "2");
        assert_eq!(shown(1400, 0), "1400");
        assert_eq!(shown(u64::MAX, 9), "18446744073.709551615");
    }
}
