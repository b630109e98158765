//! Prometheus' text: registered with `metrics`, rendered by `metrics-exporter-prometheus`, put in order by us.
//!
//! Every handle is registered once, before the first scrape is answered, so that each label value is there at zero
//! before anything has happened. A scrape sets all of them to what one pass has read and renders. The exporter prints
//! in the order of its hash maps; people, `diff` and compression are better served by one that stays.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::histograms;
use super::pass::Pass;
use super::series::{Kind, Labels, Number, Series, Unit};
use super::table;

pub struct Exporter {
    handle: PrometheusHandle,
    /// In the order of the table.
    handles: Vec<Handle>,
    /// Where each of the exporter's lines belongs, by what is before its value or text.
    places: HashMap<String, usize>,
    /// Labels of what we write ourselves, as they are printed.
    own: Vec<(&'static Series, Vec<String>)>,
    /// Bytes of the last body.
    len: usize,
}

enum Handle {
    Counter(Counter),
    Gauge(Gauge),
}

impl Exporter {
    /// Registers the whole table for as many workers and edges as `pass` has.
    pub fn new(pass: &Pass) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let mut out =
            Self { handle: recorder.handle(), handles: Vec::new(), places: HashMap::new(), own: Vec::new(), len: 0 };
        for series in table::all() {
            let sets = series.label_sets(pass);
            if series.is_ours_to_write() {
                out.own.push((series, sets.iter().map(printed).collect()));
            } else {
                out.register(&recorder, series, sets);
            }
        }
        out
    }

    fn register(&mut self, recorder: &PrometheusRecorder, series: &'static Series, sets: Vec<Labels>) {
        const METADATA: Metadata<'_> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));
        let (name, help, unit) = (series.name, series.help, Some(unit(series.unit)));
        match series.kind {
            Kind::Counter => recorder.describe_counter(name.into(), unit, help.into()),
            Kind::Gauge | Kind::Histogram => recorder.describe_gauge(name.into(), unit, help.into()),
        }
        self.place(format!("# HELP {name}"));
        self.place(format!("# TYPE {name}"));
        for labels in sets {
            self.place(format!("{name}{}", printed(&labels)));
            let labels: Vec<Label> = labels.into_iter().map(|(label, value)| Label::new(label, value)).collect();
            let key = Key::from_parts(name, labels);
            self.handles.push(match series.kind {
                Kind::Counter => Handle::Counter(recorder.register_counter(&key, &METADATA)),
                Kind::Gauge | Kind::Histogram => Handle::Gauge(recorder.register_gauge(&key, &METADATA)),
            });
        }
    }

    fn place(&mut self, head: String) {
        let next = self.places.len();
        let before = self.places.insert(head, next);
        debug_assert!(before.is_none(), "a name is in the table once");
    }

    /// The body of a scrape.
    pub fn render(&mut self, pass: &Pass) -> String {
        self.set(pass);
        let rendered = self.handle.render();
        let mut lines = vec![""; self.places.len()];
        for line in rendered.lines() {
            if let Some(place) = self.places.get(head(line)) {
                lines[*place] = line;
            }
        }
        let mut out = String::with_capacity(self.len + self.len / 8);
        for line in lines {
            out.push_str(line);
            out.push('\n');
        }
        for (series, sets) in &self.own {
            let _ = write_family(&mut out, series, sets, pass);
        }
        self.len = out.len();
        out
    }

    fn set(&self, pass: &Pass) {
        let mut handles = self.handles.iter();
        for series in table::all().filter(|series| !series.is_ours_to_write()) {
            series.numbers(pass, |number| match (handles.next(), number) {
                (Some(Handle::Counter(counter)), Number::Whole(count)) => counter.absolute(count),
                (Some(Handle::Gauge(gauge)), number) => gauge.set(number.real()),
                _ => debug_assert!(false, "{}: the exporter's counters are whole numbers", series.name),
            });
        }
    }
}

/// A whole family, without the exporter. `labels` has the labels of each number as they are printed; none for none.
///
/// # Errors
/// None: a string takes everything.
pub fn write_family(out: &mut String, series: &Series, labels: &[String], pass: &Pass) -> fmt::Result {
    let Series { name, help, .. } = series;
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {}", series.kind.as_str())?;
    histograms::write(out, series, pass)?;
    let mut labels = labels.iter();
    let mut written = Ok(());
    series.numbers(pass, |number| {
        let labels = labels.next().map_or("", String::as_str);
        written = written.and(writeln!(out, "{name}{labels} {number}"));
    });
    written
}

/// What is before the value of a sample, or before the text of a comment.
fn head(line: &str) -> &str {
    match line.strip_prefix("# ") {
        Some(comment) => {
            let name = comment.find(' ').map_or(comment.len(), |at| at + 1);
            let end = comment[name..].find(' ').map_or(comment.len(), |at| name + at);
            &line[..end + 2]
        }
        None => line.rsplit_once(' ').map_or(line, |(head, _)| head),
    }
}

/// As the exporter prints them. No value of ours has anything to escape in it.
fn printed(labels: &Labels) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    format!("{{{}}}", labels.join(","))
}

/// Only described: the exporter would append it to the name, where ours already have it.
fn unit(unit: Unit) -> metrics::Unit {
    match unit {
        Unit::Count => metrics::Unit::Count,
        Unit::Bytes => metrics::Unit::Bytes,
        Unit::Seconds => metrics::Unit::Seconds,
        Unit::Milliseconds => metrics::Unit::Milliseconds,
        Unit::Ratio => metrics::Unit::Percent,
    }
}
