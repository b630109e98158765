//! One connection from accept to its worker: TLS, HTTP, DERP login, admission.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::admit::{Limits, Place};
use super::debug;
use super::host::{Host, Stream};
use super::serve::Edge;
use super::wire::Wire;
use super::{bootstrap, connect, proxied};
use crate::limits;
use crate::proto::frame::HEADER_LEN;
use crate::proto::http::{self, Action, Door, Opening, Protocol, Upgrade};
use crate::proto::login::{Login, client_info_len};
use crate::proto::ws::CloseCode;
use crate::stats::CloseReason;
use crate::tls::handshake::{Handshake, HandshakeError, Step};
use crate::tls::identity::Choice;
use crate::worker::bridge::{Handover, Identity};

/// Ends when the connection has, or has gone to its worker. Counted once, either way.
///
/// `peer`: `None` at a unix socket. `beside`: at the plain HTTP listener beside TLS.
pub(super) async fn serve<H: Host>(edge: Rc<Edge<H>>, stream: H::Stream, peer: Option<SocketAddr>, beside: bool) {
    // An IPv4 peer of a dual-stack socket is one address everywhere: in limits, logs and identities.
    let peer = peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
    let began = Instant::now();
    let share = proxied::share(&edge.shared, peer);
    let guest = edge.guests.enter(stream, share, edge.shared.login_deadline);
    let mut wire = Wire::new(guest);
    // Whom a proxy names takes the peer's place in all of these.
    let mut client = peer;
    let outcome = match admit(&edge, &mut wire, &mut client, beside).await {
        Ok(admitted) => hand_over(&edge, wire, admitted, client).await,
        Err(reason) => {
            edge.guests.leave(&wire.guest);
            Err(reason)
        }
    };
    match outcome {
        Ok(()) => {
            edge.stats.logins.add(1);
            edge.stats.login_time.record(began.elapsed().as_micros() as u64);
        }
        Err(reason) => {
            edge.stats.count_close(reason);
            let peer = client.map(tracing::field::display);
            tracing::debug!(peer, %reason, "connection ended before login");
        }
    }
}

/// A login that has its place among the clients.
struct Admitted<'e> {
    place: Place<'e>,
    login: Login,
    /// What the peer has not been told although it comes before ServerInfo.
    unsaid: Option<Bytes>,
    not_ideal: bool,
}

async fn admit<'e, H: Host>(
    edge: &'e Edge<H>,
    wire: &mut Wire<H::Stream>,
    client: &mut Option<SocketAddr>,
    beside: bool,
) -> Result<Admitted<'e>, CloseReason> {
    *client = proxied::introduction(edge, wire, *client).await?;
    let door = match &edge.shared.tls {
        _ if beside => Door::Http,
        tls => Door::Main { tls: tls.is_some() },
    };
    match &edge.shared.tls {
        Some(config) if !beside => secure(edge, wire, config).await?,
        _ => wire.open().await?,
    }
    let upgrade = requests(edge, wire, client, door).await?;
    // Before the 101, while there is still a way to say no.
    let limits = Limits::of(&edge.shared.live.load());
    let ip = client.map(|client| client.ip());
    let place = match edge.shared.admission.reserve(ip, limits, &*edge.shared.workers) {
        Ok(place) => place,
        Err(reason) => {
            let why = match reason {
                CloseReason::MaxClientsPerIp => "too many clients from this address",
                _ => "too many clients",
            };
            return Err(refuse(edge, wire, &http::unavailable(why), reason).await);
        }
    };
    let (login, unsaid) = login(edge, wire, &upgrade).await?;
    if wire.closed {
        return Err(CloseReason::PeerClosed);
    }
    Ok(Admitted { place, login, unsaid, not_ideal: upgrade.not_ideal })
}

async fn secure<H: Host>(
    edge: &Edge<H>,
    wire: &mut Wire<H::Stream>,
    config: &Arc<rustls::ServerConfig>,
) -> Result<(), CloseReason> {
    let first = loop {
        match wire.wire_in.first_chunk::<5>() {
            Some(first) => break first,
            None => wire.read().await?,
        }
    };
    if http::is_plain_http(first) {
        edge.stats.handshakes_failed.add(1);
        return Err(refuse(edge, wire, http::PLAIN_ON_TLS, CloseReason::Handshake).await);
    }
    let (config, challenge) = choose(edge, wire, config).await?;
    let mut handshake = Handshake::new(config).map_err(|_| CloseReason::Internal)?;
    loop {
        match handshake.advance(&mut wire.wire_in, &mut wire.out) {
            Ok(Step::NeedInput) => wire.read().await?,
            Ok(Step::Done(established)) => {
                edge.stats.count_handshake(established.version);
                wire.transport = established.transport;
                if challenge {
                    return Err(refuse(edge, wire, &[], CloseReason::AcmeChallenge).await);
                }
                wire.plain_in = established.plain;
                return wire.open().await;
            }
            Err(error) => {
                edge.stats.handshakes_failed.add(1);
                let reason = match error {
                    HandshakeError::Ours(_) => CloseReason::Internal,
                    HandshakeError::Peer(_) | HandshakeError::TooLarge => CloseReason::Handshake,
                };
                return Err(refuse(edge, wire, &[], reason).await);
            }
        }
    }
}

/// What the handshake runs with, and whether it is an authority's look at a challenge.
async fn choose<H: Host>(
    edge: &Edge<H>,
    wire: &mut Wire<H::Stream>,
    usual: &Arc<rustls::ServerConfig>,
) -> Result<(Arc<rustls::ServerConfig>, bool), CloseReason> {
    let Some(certificates) = &edge.shared.certificates else { return Ok((usual.clone(), false)) };
    let local = if certificates.depend_on_address() { wire.guest.stream.local_ip() } else { None };
    loop {
        match certificates.choose(usual, &wire.wire_in, local) {
            Choice::Later => wire.read().await?,
            Choice::Usual => return Ok((usual.clone(), false)),
            Choice::Address(config) => return Ok((config, false)),
            Choice::Challenge(config) => return Ok((config, true)),
        }
    }
}

/// Answers requests until one asks for DERP.
///
/// Each answer renews the deadline, so that a prober may keep its connection: the rule for idle HTTP is that of an
/// idle login. What it can hold that way is one half-open place, which newcomers take first from whoever is oldest.
async fn requests<H: Host>(
    edge: &Edge<H>,
    wire: &mut Wire<H::Stream>,
    client: &mut Option<SocketAddr>,
    door: Door,
) -> Result<Upgrade, CloseReason> {
    let address = *client;
    for answered in 1..=limits::HTTP_REQUESTS_MAX {
        let services = http::Services { challenges: edge.shared.challenges.as_deref() };
        let exchange = loop {
            let last = answered == limits::HTTP_REQUESTS_MAX || edge.shared.is_stopping();
            let live = edge.shared.live.load();
            let visitor = http::Visitor { address, proxies: &live.trusted_proxies, door, last };
            let next = http::next(&wire.plain_in, &live.site, services, visitor);
            drop(live);
            match next {
                Ok(Some(exchange)) => break exchange,
                Ok(None) => wait_for_request(wire, answered > 1).await?,
                Err(error) => return Err(refuse(edge, wire, &error.answer(), CloseReason::BadHttp).await),
            }
        };
        wire.plain_in.drain(..exchange.head_len);
        // A proxy may send the requests of many over one connection.
        if exchange.client != *client {
            *client = exchange.client;
            proxied::place(edge, wire, *client);
        }
        let answer = match exchange.action {
            Action::Upgrade(upgrade) => return Ok(upgrade),
            Action::Reply(answer) => answer,
            Action::Debug(request) => debug::answer(edge, wire, request).await?,
            Action::BootstrapDns(request) => bootstrap::answer(edge, &request, *client),
            Action::Connect(host, port) => return Err(tunnel(edge, wire, *client, (host, port)).await),
        };
        edge.stats.http_requests.add(1);
        let Some(body) = answer.skip else {
            return Err(refuse(edge, wire, &answer.bytes, CloseReason::HttpDone).await);
        };
        wire.say(&answer.bytes)?;
        wire.flush().await?;
        edge.guests.renew(&wire.guest, edge.shared.login_deadline);
        skip(wire, body).await?;
    }
    Err(CloseReason::HttpDone)
}

async fn tunnel<H: Host>(
    edge: &Edge<H>,
    wire: &mut Wire<H::Stream>,
    client: Option<SocketAddr>,
    target: (String, u16),
) -> CloseReason {
    edge.stats.http_requests.add(1);
    match connect::tunnel(edge, wire, client, target).await {
        Ok(reason) => reason,
        Err(answer) => refuse(edge, wire, &answer, CloseReason::HttpDone).await,
    }
}

/// An HTTP connection may end between two requests, whoever ends it.
async fn wait_for_request<S: Stream>(wire: &mut Wire<S>, answered: bool) -> Result<(), CloseReason> {
    let between = answered && wire.plain_in.is_empty();
    wire.fill().await.map_err(|reason| match reason {
        CloseReason::PeerClosed | CloseReason::PeerReset | CloseReason::LoginDeadline if between => {
            CloseReason::HttpDone
        }
        reason => reason,
    })
}

async fn skip<S: Stream>(wire: &mut Wire<S>, mut body: u64) -> Result<(), CloseReason> {
    loop {
        let here = usize::try_from(body).unwrap_or(usize::MAX).min(wire.plain_in.len());
        wire.plain_in.drain(..here);
        body -= here as u64;
        if body == 0 {
            return Ok(());
        }
        wire.fill().await?;
    }
}

/// ServerKey out, ClientInfo in. Whoever knows the key already, and has sent both in one, is told with ServerInfo: one
/// write, and one wake of the peer, less.
async fn login<H: Host>(
    edge: &Edge<H>,
    wire: &mut Wire<H::Stream>,
    upgrade: &Upgrade,
) -> Result<(Login, Option<Bytes>), CloseReason> {
    let keys = &edge.shared.keys;
    let hello = &edge.shared.hello;
    let mut unsaid = None;
    match &upgrade.protocol {
        Protocol::Derp { fast_start: true } => unsaid = Some(hello.server_key.clone()),
        Protocol::Derp { fast_start: false } => wire.say(&hello.upgrade)?,
        Protocol::WebSocket(opening) => open_websocket(edge, wire, opening).await?,
    }
    edge.stats.derp_accepts.add(1);

    let mut large = None;
    let end = loop {
        let len = client_info_len(&wire.plain_in, limits::MAX_CLIENT_INFO);
        let end = match len {
            Ok(None) => usize::MAX,
            Ok(Some(len)) => HEADER_LEN + len,
            Err(error) => return Err(bad_login(wire, unsaid, error).await),
        };
        if wire.plain_in.len() >= end {
            break end;
        }
        if let Some(key) = unsaid.take() {
            wire.say(&key)?;
        }
        if matches!(len, Ok(Some(len)) if len > limits::LARGE_CLIENT_INFO) && large.is_none() {
            large = edge.large_login();
            if large.is_none() {
                return Err(bad_login(wire, None, "too many large ones at once").await);
            }
        }
        wire.fill().await?;
    };
    // A ping may have come in front of it, and its pong is sealed: whatever the worker seals has to follow it.
    wire.flush().await?;
    let login = match keys.open(&wire.plain_in[HEADER_LEN..end]) {
        Ok(login) => login,
        Err(error) => return Err(bad_login(wire, unsaid, error).await),
    };
    wire.plain_in.drain(..end);
    Ok((login, unsaid))
}

async fn open_websocket<H: Host>(
    edge: &Edge<H>,
    wire: &mut Wire<H::Stream>,
    opening: &Opening,
) -> Result<(), CloseReason> {
    wire.say(&opening.answer())?;
    if opening.subprotocol.is_none() {
        wire.end_websocket(Some(CloseCode::PolicyViolation as u16)).await;
        return Err(CloseReason::BadWebSocket);
    }
    edge.stats.websocket_accepts.add(1);
    wire.begin_websocket().await?;
    wire.say(&edge.shared.hello.server_key)
}

async fn bad_login<S: Stream>(wire: &mut Wire<S>, unsaid: Option<Bytes>, error: impl std::fmt::Display) -> CloseReason {
    tracing::debug!(%error, "login refused");
    if let Some(key) = unsaid {
        // The login has failed already.
        let _ = wire.say(&key);
    }
    wire.part(None).await;
    CloseReason::BadLogin
}

/// Says `last`, and gives the peer a moment to hear it.
async fn refuse<H: Host>(edge: &Edge<H>, wire: &mut Wire<H::Stream>, last: &[u8], reason: CloseReason) -> CloseReason {
    if wire.say(last).is_ok() {
        wire.part(None).await;
        edge.guests.renew(&wire.guest, limits::LINGER);
        wire.linger().await;
    }
    reason
}

/// From the first line on nothing but this task touches the connection: no deadline may shut down a socket that a
/// worker has already.
async fn hand_over<H: Host>(
    edge: &Edge<H>,
    mut wire: Wire<H::Stream>,
    admitted: Admitted<'_>,
    address: Option<SocketAddr>,
) -> Result<(), CloseReason> {
    edge.guests.leave(&wire.guest);
    if let Some(reason) = wire.guest.cut() {
        return Err(reason);
    }
    let deadline = wire.guest.deadline();
    let guest = Rc::into_inner(wire.guest).ok_or(CloseReason::Internal)?;
    let socket = edge.host.release(guest.stream).map_err(|_| CloseReason::Internal)?;
    let login = &admitted.login;
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce).map_err(|_| CloseReason::Internal)?;
    let info = login.server_info_frame(nonce);
    let greeting = match admitted.unsaid {
        Some(key) => [&key[..], &info].concat(),
        None => info,
    };
    wire.wire_in.shrink_to_fit();
    wire.plain_in.shrink_to_fit();
    let handover = Handover {
        socket,
        transport: wire.transport,
        wire_in: wire.wire_in,
        plain_in: wire.plain_in,
        greeting,
        identity: Identity {
            key: login.key,
            address,
            mesh: login.is_mesh(edge.shared.mesh_key.as_ref()),
            prober: login.info.is_prober,
            not_ideal: admitted.not_ideal,
            websocket: wire.websocket.is_some(),
        },
        websocket: wire.websocket,
    };
    adopt(edge, Box::new(handover), deadline).await?;
    admitted.place.keep();
    Ok(())
}

/// A worker whose queue stays full until the login deadline cannot take the connection.
async fn adopt<H: Host>(edge: &Edge<H>, mut handover: Box<Handover>, deadline: Instant) -> Result<(), CloseReason> {
    let worker = edge.shared.workers.place(&handover.identity.key);
    let (mut wait, longest) = limits::ADOPT_WAIT;
    loop {
        handover = match edge.shared.workers.adopt(worker, handover) {
            Ok(()) => {
                edge.bells.mark(worker);
                return Ok(());
            }
            Err(back) => back,
        };
        // Whatever fills its queue may be waiting for this.
        edge.bells.mark(worker);
        if edge.shared.is_closing() {
            return Err(CloseReason::Shutdown);
        }
        if Instant::now() >= deadline {
            return Err(CloseReason::Internal);
        }
        sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}
