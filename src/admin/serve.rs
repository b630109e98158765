//! HTTP on the admin listeners: places, deadlines, and the form of answers.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT, CONNECTION, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::access::{self, Peer};
use super::listen::Door;
use super::pages::{self, Ask, Content, Page};
use super::state::State;
use crate::control::logging::Limiter;
use crate::control::sockets::SocketFile;
use crate::limits;

/// Places of connections. Those who are answered whatever they say never lose theirs to strangers.
pub(super) struct Places {
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    lines: Limiter,
}

impl Places {
    pub fn new() -> Self {
        let strangers = limits::ADMIN_CONNECTIONS / 4;
        Self {
            known: Arc::new(Semaphore::new(limits::ADMIN_CONNECTIONS - strangers)),
            strangers: Arc::new(Semaphore::new(strangers)),
            lines: Limiter::new(limits::ACCEPT_PAUSE_LOG),
        }
    }

    fn take(&self, known: bool) -> Option<OwnedSemaphorePermit> {
        let places = if known { &self.known } else { &self.strangers };
        places.clone().try_acquire_owned().ok()
    }
}

/// A listener of the runtime.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "it works by being dropped")] SocketFile),
}

impl Listener {
    pub fn new(door: Door) -> io::Result<Self> {
        Ok(match door {
            Door::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Door::Unix(listener, file) => Self::Unix(UnixListener::from_std(listener)?, file),
        })
    }
}

/// Lets in whoever comes and finds a place.
pub(super) async fn accept(state: Arc<State>, listener: Listener, places: Arc<Places>) {
    loop {
        let accepted = match &listener {
            Listener::Tcp(tcp) => tcp.accept().await.map(|(stream, peer)| {
                let peer = Peer::Tcp(peer);
                take_in(&state, &places, peer, stream);
            }),
            Listener::Unix(unix, _) => {
                unix.accept().await.map(|(stream, _)| take_in(&state, &places, Peer::Unix, stream))
            }
        };
        if let Err(error) = accepted {
            tracing::debug!(%error, "accept failed on an admin listener");
            sleep(limits::ACCEPT_PAUSE).await;
        }
    }
}

fn take_in<S>(state: &Arc<State>, places: &Places, peer: Peer, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let known = access::known(&state.access.load(), peer);
    match places.take(known) {
        Some(place) => drop(tokio::spawn(connection(state.clone(), peer, stream, place))),
        None => {
            state.turned_away.fetch_add(1, Ordering::Relaxed);
            if let Some(left_out) = places.lines.pass() {
                let most = limits::ADMIN_CONNECTIONS;
                tracing::warn!(left_out, most, "no place for another connection to the admin listener: it is closed");
            }
        }
    }
}

async fn connection<S>(state: Arc<State>, peer: Peer, stream: S, _place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(&state, peer, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        // Of a head, and of the time until it begins: silence holds a place, too.
        .header_read_timeout(limits::ADMIN_IDLE)
        .max_buf_size(limits::HTTP_HEAD_MAX)
        .serve_connection(TokioIo::new(Impatient::new(stream)), service);
    if let Err(error) = pin!(served).await {
        tracing::debug!(?peer, %error, "admin connection ended");
    }
}

async fn answer(state: &Arc<State>, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let via = match access::check(&state.access.load(), peer, &head.headers) {
        Ok(via) => via,
        Err(why) => {
            tracing::debug!(?peer, why, "admin request refused");
            let mut refused = response(Page::text(403, &why));
            refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return refused;
        }
    };
    let changes = !matches!(head.method.as_str(), "GET" | "HEAD");
    if changes && access::from_another_site(&head.headers) {
        return response(Page::text(403, "403: a page of another site asked for this"));
    }
    let ask = Ask {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        accept: head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default(),
        via,
        body: if changes { read(body).await } else { Ok(String::new()) },
    };
    response(pages::answer(state, &ask).await)
}

/// A short text.
async fn read(body: Incoming) -> Result<String, &'static str> {
    let all = async {
        let mut body = pin!(body);
        let mut text = Vec::new();
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let data = frame.map_err(|_| "the body did not arrive")?.into_data().unwrap_or_default();
            if text.len() + data.len() > limits::ADMIN_BODY_MAX {
                return Err("the body is too long");
            }
            text.extend_from_slice(&data);
        }
        String::from_utf8(text).map_err(|_| "the body is not UTF-8")
    };
    timeout(limits::ADMIN_IDLE, all).await.unwrap_or(Err("the body did not arrive in time"))
}

fn response(page: Page) -> Response<Body> {
    const COMMON: [(HeaderName, &str); 5] = [
        (hyper::header::CACHE_CONTROL, "no-store"),
        (hyper::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (hyper::header::X_FRAME_OPTIONS, "DENY"),
        (hyper::header::REFERRER_POLICY, "no-referrer"),
        (
            hyper::header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; \
             base-uri 'none'",
        ),
    ];
    let body = match page.content {
        Content::Whole(text) => Body::Whole(Some(text.into())),
        Content::Stream(parts) => Body::Stream(parts),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.extend(COMMON.map(|(name, value)| (name, HeaderValue::from_static(value))));
    headers.insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    if let Some((name, value)) = page.header {
        headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap_or(CONNECTION), HeaderValue::from_static(value));
    }
    response
}

enum Body {
    Whole(Option<Bytes>),
    Stream(tokio::sync::mpsc::Receiver<Bytes>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Self::Whole(all) => Poll::Ready(all.take()),
            Self::Stream(parts) => parts.poll_recv(cx),
        };
        data.map(|data| data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(all) => SizeHint::with_exact(all.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// A stream whose peer may not take nothing for long while something is to be written.
struct Impatient<S> {
    stream: S,
    patience: Duration,
    /// When it ends, while a write waits.
    end: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn new(stream: S) -> Self {
        Self { stream, patience: limits::ADMIN_STALL, end: None }
    }

    fn wrote<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.end = None;
            return result;
        }
        let patience = self.patience;
        let end = self.end.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        match end.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.wrote(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::super::roster::tests::run;
    use super::*;

    #[test]
    fn who_takes_nothing_is_not_waited_for_and_who_is_slow_is() {
        run(async {
            let (ours, mut theirs) = duplex(16);
            let mut ours = Impatient::new(ours);
            ours.patience = Duration::from_secs(2);
            let slow = tokio::spawn(async move {
                let mut part = [0; 16];
                // Together longer than the patience, each wait shorter.
                for _ in 0..6 {
                    sleep(Duration::from_millis(500)).await;
                    theirs.read_exact(&mut part).await.unwrap();
                }
                theirs
            });
            ours.write_all(&[1; 6 * 16]).await.unwrap();
            let _theirs = slow.await.unwrap();
            let error = ours.write_all(&[1; 32]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
