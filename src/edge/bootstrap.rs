//! `/bootstrap-dns`: the table is made elsewhere, and looked up here.

use std::net::SocketAddr;

use super::host::Host;
use super::serve::Edge;
use crate::proto::http::{Answer, BootstrapRequest};

pub(super) fn answer<H: Host>(edge: &Edge<H>, request: &BootstrapRequest, client: Option<SocketAddr>) -> Answer {
    let ip = client.map(|client| client.ip());
    let count = |what| edge.stats.bootstrap_dns[what as usize].add(1);
    let body = edge.shared.bootstrap_dns.answer(request.name.as_deref(), ip, count);
    Answer { bytes: request.answer(body), skip: None }
}
