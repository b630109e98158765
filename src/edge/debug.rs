//! `/debug/` on the main listener: the question goes to who makes the pages, and nothing is rendered on an edge.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::host::Host;
use super::serve::Edge;
use super::wire::Wire;
use crate::limits;
use crate::proto::http::{Answer, DebugRequest, Pending};
use crate::stats::CloseReason;

/// Where questions go. It is bounded: when it is full, the answer is 503.
pub type Desk = mpsc::Sender<Question>;

#[derive(Debug)]
pub struct Question {
    /// Behind `/debug/`.
    pub page: String,
    /// Access depends on whether this is the debug key.
    pub key: Option<String>,
    /// Only the head is wanted: a body that goes on would be for nobody.
    pub head_only: bool,
    pub reply: oneshot::Sender<Page>,
}

/// An answer.
#[derive(Debug)]
pub enum Page {
    Whole {
        status: u16,
        content_type: &'static str,
        body: String,
    },
    /// Parts as they come. It ends with its sender.
    Stream {
        content_type: &'static str,
        parts: mpsc::Receiver<Bytes>,
    },
    Denied,
    Busy,
}

/// Asks, and says what comes but for the end of it, which is the caller's to say.
pub(super) async fn answer<H: Host>(
    edge: &Edge<H>,
    wire: &mut Wire<H::Stream>,
    request: DebugRequest,
) -> Result<Answer, CloseReason> {
    let DebugRequest { page, key, mut pending } = request;
    let (reply, answer) = oneshot::channel();
    let question = Question { page, key, head_only: pending.head_only(), reply };
    let asked = edge.shared.desk.as_ref().is_some_and(|desk| desk.try_send(question).is_ok());
    let page = if asked { timeout(limits::DEBUG_ANSWER, answer).await.ok().and_then(Result::ok) } else { None };
    if let Some(reason) = wire.guest.cut() {
        return Err(reason);
    }
    let bytes = match page {
        Some(Page::Whole { status, content_type, body }) => pending.whole(status, content_type, body),
        Some(Page::Stream { content_type, parts }) => stream(edge, wire, &mut pending, content_type, parts).await?,
        Some(Page::Denied) => pending.text(403, "debug access denied"),
        Some(Page::Busy) | None => pending.text(503, "too many ask for debug pages: try again"),
    };
    Ok(Answer { bytes, skip: pending.skip })
}

/// Each part renews the deadline, as every answer does; a peer that takes none of it is cut off by the next one.
async fn stream<H: Host>(
    edge: &Edge<H>,
    wire: &mut Wire<H::Stream>,
    pending: &mut Pending,
    content_type: &'static str,
    mut parts: mpsc::Receiver<Bytes>,
) -> Result<Vec<u8>, CloseReason> {
    wire.say(&pending.stream(content_type))?;
    wire.flush().await?;
    if pending.head_only() {
        return Ok(Vec::new());
    }
    while let Some(part) = parts.recv().await {
        edge.guests.renew(&wire.guest, edge.shared.login_deadline);
        if !part.is_empty() {
            wire.say(&pending.part(&part))?;
            wire.flush().await?;
        }
    }
    Ok(pending.part(b""))
}
