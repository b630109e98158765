//! Every series that there is, in the order of the scrape's body and of docs/METRICS.md.

pub mod coder;
pub mod edge;
pub mod process;
pub mod relay;
pub mod stun;
pub mod worker;

use super::series::Series;

pub fn all() -> impl Iterator<Item = &'static Series> {
    sections().into_iter().flat_map(|section| section.series)
}

/// Series that belong together, and what is to be said about all of them.
pub struct Section {
    pub title: &'static str,
    pub text: &'static str,
    pub series: &'static [Series],
}

pub fn sections() -> [Section; 6] {
    [
        Section {
            title: "Coder's names",
            text: "The series of Coder's relay, with its names, types, labels and meanings, so that dashboards and \
                   alerts made for it go on working. Bytes are payload: neither frame headers nor keys are in them.",
            series: coder::SERIES,
        },
        Section {
            title: "Workers",
            text: "One number for each worker, with its number as the label `worker`. Sums over workers are what the \
                   relay does; differences between them are how evenly it is done.",
            series: worker::SERIES,
        },
        Section {
            title: "Relay",
            text: "Why sessions end, bounds, what runs, and histograms over all workers and edges.",
            series: relay::SERIES,
        },
        Section {
            title: "Edges",
            text: "One number for each edge thread, with its number as the label `edge`: what happens before a client \
                   is logged in.",
            series: edge::SERIES,
        },
        Section {
            title: "STUN",
            text: "What comes to the STUN sockets, all of them together, and what becomes of it.",
            series: stun::SERIES,
        },
        Section {
            title: "Process",
            text: "Prometheus' own names for what the kernel knows about a process.",
            series: process::SERIES,
        },
    ]
}
