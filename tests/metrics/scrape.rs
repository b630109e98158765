//! The body of a scrape, read by a parser that is not ours: by Prometheus' grammar, and by that of OpenMetrics.

use std::collections::BTreeMap;

use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::prometheus::parse_prometheus;
use openmetrics_parser::{HistogramValue, MetricFamily, OpenMetricsValue, PrometheusValue, RenderableMetricValue};

pub type Scrape = BTreeMap<String, Family>;

#[derive(Debug, PartialEq)]
pub struct Family {
    pub kind: String,
    pub help: String,
    /// By labels as they are printed, in the order of their names: `a="1",b="2"`.
    pub samples: BTreeMap<String, Value>,
}

#[derive(Debug, PartialEq)]
pub enum Value {
    Number(f64),
    Histogram {
        /// Bounds with the values not above them; the last bound is infinite.
        buckets: Vec<(f64, f64)>,
        sum: f64,
        count: u64,
    },
}

impl Family {
    /// All samples are numbers.
    pub fn numbers(&self) -> BTreeMap<&str, f64> {
        let number = |value: &Value| match value {
            Value::Number(number) => *number,
            Value::Histogram { .. } => panic!("expected numbers: {self:#?}"),
        };
        self.samples.iter().map(|(labels, value)| (labels.as_str(), number(value))).collect()
    }
}

#[track_caller]
pub fn read_text(body: &str) -> Scrape {
    let parsed = parse_prometheus(body).unwrap_or_else(|e| panic!("expected Prometheus' text: {e}\n{body}"));
    let number = |value: &PrometheusValue| match value {
        PrometheusValue::Counter(counter) => Value::Number(counter.value.as_f64()),
        PrometheusValue::Gauge(gauge) => Value::Number(gauge.as_f64()),
        PrometheusValue::Unknown(number) => Value::Number(number.as_f64()),
        PrometheusValue::Histogram(of) => histogram(of),
        PrometheusValue::Summary(_) => panic!("there is no summary in\n{body}"),
    };
    parsed.families.into_iter().map(|(name, of)| (name, family(&of, of.family_type.to_string(), number))).collect()
}

/// With counters under the names of their samples, as in text.
#[track_caller]
pub fn read_openmetrics(body: &str) -> Scrape {
    assert!(body.ends_with("\n# EOF\n"));
    let parsed = parse_openmetrics(body).unwrap_or_else(|e| panic!("expected OpenMetrics: {e}\n{body}"));
    let number = |value: &OpenMetricsValue| match value {
        OpenMetricsValue::Counter(counter) => Value::Number(counter.value.as_f64()),
        OpenMetricsValue::Gauge(gauge) => Value::Number(gauge.as_f64()),
        OpenMetricsValue::Histogram(of) => histogram(of),
        other => panic!("expected counters, gauges and histograms, there is {other:?} in\n{body}"),
    };
    let named = |name: String, kind: &str| if kind == "counter" { name + "_total" } else { name };
    let families = parsed.families.into_iter().map(|(name, of)| {
        let kind = of.family_type.to_string();
        (named(name, &kind), family(&of, kind, number))
    });
    families.collect()
}

fn family<T: Clone, V: RenderableMetricValue + Clone>(
    of: &MetricFamily<T, V>,
    kind: String,
    value: impl Fn(&V) -> Value,
) -> Family {
    let mut samples = BTreeMap::new();
    for sample in of.iter_samples() {
        let labels = sample.get_labelset().expect("as many values as names");
        let mut labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        labels.sort();
        let before = samples.insert(labels.join(","), value(&sample.value));
        assert!(before.is_none(), "{labels:?} twice in {}", of.family_name);
    }
    Family { kind, help: of.help.clone(), samples }
}

fn histogram(of: &HistogramValue) -> Value {
    let buckets: Vec<_> = of.buckets.iter().map(|bucket| (bucket.upper_bound, bucket.count.as_f64())).collect();
    let sum = of.sum.expect("a histogram has a sum").as_f64();
    Value::Histogram { buckets, sum, count: of.count.expect("a histogram has a count") }
}
