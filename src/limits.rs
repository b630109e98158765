//! Every bound, with its reason.

use std::time::Duration;

/// Largest packet that is relayed, without keys and header (protocol).
pub const MAX_PACKET: usize = 64 * 1024;

/// Largest ClientInfo frame payload that is read before the peer is known (protocol).
pub const MAX_CLIENT_INFO: usize = 256 * 1024;

/// TLS, HTTP head and login together: what an unknown peer may take of our time (the reference's login deadline).
pub const LOGIN_DEADLINE: Duration = Duration::from_secs(10);

/// Connections that are not logged in, over all edges. Each may hold a few KiB for [`LOGIN_DEADLINE`].
pub const HALF_OPEN_MAX: usize = 4096;

/// The same from one address (or IPv6 /64): one stranger never fills the table.
pub const HALF_OPEN_MAX_PER_IP: usize = 512;

/// HTTP head, request line included. Browsers and proxies stay below 8 KiB.
pub const HTTP_HEAD_MAX: usize = 16 * 1024;

/// Requests on one connection before it upgrades: enough for probers on keep-alive.
pub const HTTP_REQUESTS_MAX: usize = 100;

/// Longest WebSocket message. Clients may put one frame of 64 KiB, and what else they have, into one message; as its
/// parts are used as they come, a longer one costs us nothing and is only a sign of something else.
pub const WEBSOCKET_MESSAGE_MAX: usize = 128 * 1024;

/// Header lines of one HTTP head; they are parsed on the stack.
pub const HTTP_HEADERS_MAX: usize = 96;

/// Request body that is read and thrown away to keep a connection; beyond it, closing is cheaper.
pub const HTTP_BODY_MAX: u64 = 64 * 1024;

/// A PROXY header: addresses, and what a proxy tells of its client's certificate. Version 1 is 107 bytes at most.
pub const PROXY_HEADER_MAX: usize = 4 * 1024;

/// Bytes of a TLS handshake that wait for their other half. Honest flights stay below 8 KiB.
pub const HANDSHAKE_IN_MAX: usize = 64 * 1024;

/// A certificate with its chain, or a key, in a file. Long chains are 16 KiB.
pub const CERTIFICATE_FILE_MAX: u64 = 1 << 20;

/// A file of trusted roots: all authorities of the world are 250 KiB.
pub const ROOTS_FILE_MAX: u64 = 16 << 20;

/// Life of the key that session tickets are sealed with. It opens tickets as long again, then it is gone, and whoever
/// takes it afterwards from our memory finds nothing to open.
pub const TICKET_KEY_LIFE: Duration = Duration::from_secs(6 * 60 * 60);

/// First and longest wait after an authority has given no certificate. Let's Encrypt allows five failures an hour.
pub const ACME_RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60 * 60));

/// The longest that we let an authority tell us to wait: a certificate that is still to be renewed lives that long.
pub const ACME_RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One order, from the account to the certificate (the reference's budget).
pub const ACME_ORDER: Duration = Duration::from_secs(3 * 60);

/// One answer of an authority.
pub const ACME_ANSWER: Duration = Duration::from_secs(30);

/// Bytes of one answer of an authority: a certificate with its chain is the largest.
pub const ACME_ANSWER_MAX: usize = 1 << 20;

/// Times that one request is made anew because the authority did not like its nonce.
pub const ACME_NONCES: usize = 8;

/// Nothing that an authority says makes us ask for the same certificate more often.
pub const ACME_BETWEEN: Duration = Duration::from_secs(60 * 60);

/// How often an authority is asked when it wants a certificate renewed, unless it says so itself, within this.
pub const ACME_ADVICE: (Duration, Duration) = (Duration::from_secs(60 * 60), Duration::from_secs(24 * 60 * 60));

/// Addresses of this host that certificates are asked for. Whoever routes whole networks to a host must not be able to
/// make it ask for thousands.
pub const ACME_ADDRESSES_MAX: usize = 16;

/// How long an HTTP connection that we end may take to end on its side, so that our last words are not lost to a reset.
pub const LINGER: Duration = Duration::from_millis(500);

/// Bytes that are read and thrown away in that time.
pub const LINGER_BYTES: usize = 64 * 1024;

/// ClientInfo frames beyond this are nobody's; the protocol allows them, so a few at a time may take the memory.
pub const LARGE_CLIENT_INFO: usize = 4 * 1024;

/// How many of those one edge takes in at a time: 4 MiB.
pub const LARGE_CLIENT_INFOS: u32 = 16;

/// Room for one read from a connection that is not logged in.
pub const EDGE_READ: usize = 4 * 1024;

/// How long accepting rests when descriptors have run out.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One line about that in this time.
pub const ACCEPT_PAUSE_LOG: Duration = Duration::from_secs(60);

/// First and longest wait for room in a worker's queue.
pub const ADOPT_WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Completions that an edge's ring holds: one for every half-open connection, and accepts.
pub const EDGE_COMPLETIONS: u32 = 2 * HALF_OPEN_MAX as u32;

/// How long an edge waits for a page of `/debug/`: less than a login may take, so that its answer still arrives.
pub const DEBUG_ANSWER: Duration = Duration::from_secs(5);

/// Questions from the main listener that wait or are being answered: more people than ever look at one relay.
pub const DEBUG_QUESTIONS: usize = 16;

/// How long `/debug/traffic` goes on on the main listener (the reference's write timeout): it takes a place there.
pub const DEBUG_STREAM: Duration = Duration::from_secs(30);

/// How often the names of `/bootstrap-dns` are looked up (the reference's period).
pub const BOOTSTRAP_REFRESH: Duration = Duration::from_secs(600);

/// Names that were asked for there; beyond it counting begins again (the reference's bound).
pub const BOOTSTRAP_NAMES_REMEMBERED: usize = 500;

/// Tunnels of CONNECT at once: each is a client without another way to the control plane, and two descriptors.
pub const CONNECT_TUNNELS: usize = 1024;

/// The same from one address (or IPv6 /64): one stranger never takes all of them.
pub const CONNECT_TUNNELS_PER_IP: usize = 256;

/// Lookups for them at once; each is a thread for as long as the system's resolver takes.
pub const CONNECT_LOOKUPS: usize = 8;

/// What lookup and connect may take (the reference's).
pub const CONNECT_DIAL: Duration = Duration::from_secs(15);

/// How long a tunnel may carry nothing. The control plane says something every minute.
pub const CONNECT_IDLE: Duration = Duration::from_secs(300);

/// One line in this time about PROXY headers from who is not trusted: a proxy that sends them does so every time.
pub const UNTRUSTED_PROXY_LOG: Duration = Duration::from_secs(60);

// One address alone must not be able to push everybody else out, and a login of the largest size must fit.
const _: () = assert!(HALF_OPEN_MAX_PER_IP * 4 <= HALF_OPEN_MAX);
const _: () = assert!(EDGE_COMPLETIONS.is_power_of_two() && EDGE_COMPLETIONS as usize > HALF_OPEN_MAX);
const _: () = assert!(CONNECT_TUNNELS_PER_IP * 4 <= CONNECT_TUNNELS);
const _: () = assert!(LARGE_CLIENT_INFO < MAX_CLIENT_INFO);
const _: () = assert!(DEBUG_ANSWER.as_secs() < LOGIN_DEADLINE.as_secs());

/// How often the files of the configuration are looked at without a notice that they have changed: notices can fail to
/// come, and this is a call to the kernel for each file.
pub const RELOAD_LOOK: Duration = Duration::from_secs(30);

/// How long a file must stay as it is before it is read: who writes two of them writes the second one soon.
pub const RELOAD_SETTLE: Duration = Duration::from_millis(300);

/// Looks after which a file that never rests is read all the same.
pub const RELOAD_SETTLE_LOOKS: usize = 10;

/// Bytes of a configuration file: a hundred times what one with every setting and every comment has.
pub const CONFIG_FILE_MAX: u64 = 1 << 20;

/// Connections to the admin listeners, all together: some scrapers, some people, and their idle connections.
pub const ADMIN_CONNECTIONS: usize = 64;

/// What a connection to them may take for a request's head, or stay idle between two: it holds one of the places.
pub const ADMIN_IDLE: Duration = Duration::from_secs(10);

/// How long somebody who asked there may take nothing of the answer.
pub const ADMIN_STALL: Duration = Duration::from_secs(10);

/// Request body that an admin page reads: the longest filter of the log that anybody writes.
pub const ADMIN_BODY_MAX: usize = 4 * 1024;

/// Streams of `/debug/traffic` at once, on the admin listeners and again on the main one. Each may hold two seconds of
/// everybody's traffic, about 300 bytes a client.
pub const TRAFFIC_STREAMS: usize = 8;

/// Sessions that a worker tells at a time: what it does meanwhile waits for it.
pub const LISTING_PAGE: usize = 256;

/// How long a worker may take for one such page before it counts as missing, or as stuck.
pub const LISTING_PATIENCE: Duration = Duration::from_secs(1);

/// Clients that one answer of `/debug/clients` shows: 10 MB of text.
pub const CLIENTS_SHOWN_MAX: usize = 10_000;

/// How often the log says what was dropped and refused.
pub const SUMMARY_EVERY: Duration = Duration::from_secs(60);

/// Datagrams that the STUN server takes in one system call. A batch with its answers takes 100 KiB.
pub const STUN_BATCH: usize = 64;

/// Longest STUN request. Tailscale's are 40 bytes, and RFC 8489 keeps clients that do not know the path below IPv6's
/// least MTU.
pub const STUN_REQUEST_MAX: usize = 1280;

/// Longest STUN answer: a refusal that names sixteen attributes, with its fingerprint.
pub const STUN_ANSWER_MAX: usize = 80;

/// Batches from one STUN socket before the next one has its turn, and before the end of the relay is looked for.
pub const STUN_TURN: usize = 16;

/// Receive buffer of a STUN socket, as far as the kernel allows: everybody's requests in the moments after a restart.
pub const STUN_RECEIVE_BUFFER: usize = 1 << 20;

/// Answers per second to one network, an IPv4 /24 or an IPv6 /48. A client asks a relay less than once in ten seconds,
/// so that twenty thousand may share the network of a NAT; for whoever is answered in place of somebody who forged
/// his address it is one megabit per second.
pub const STUN_ANSWERS_PER_SECOND: u32 = 2000;

/// Answers to one network at once: its clients all ask again when a relay comes back.
pub const STUN_ANSWERS_BURST: u32 = 4000;

/// Networks whose answers are counted at a time, in 256 KiB. A place is free again as soon as its network has been
/// quiet for as long as its answers should have taken: half a millisecond for one.
pub const STUN_NETWORKS: usize = 16 * 1024;

/// How long receiving rests on a socket that fails (derper's pause).
pub const STUN_REST: Duration = Duration::from_secs(1);

/// One line about that in this time.
pub const STUN_ERROR_LOG: Duration = Duration::from_secs(60);

/// Pairs of a session and a peer that it has heard of, per worker: 40 bytes each. Beyond it a departure may go
/// unreported, which a client survives; without it whoever sends to everybody under many keys eats the memory.
pub const ACQUAINTANCES_MAX: usize = 4 << 20;

/// Packets that a session's queue keeps whatever their size: clients and probers keep 30 packets of 64 KiB in flight
/// and accept no loss.
pub const QUEUE_PACKETS_MIN: u32 = 32;

/// Control frames that may pile up in front of a peer that does not read. Mesh watchers are sent the whole directory
/// (56 bytes a peer), so theirs is larger.
pub const CONTROL_BYTES_MAX: u32 = 1 << 20;
/// See [`CONTROL_BYTES_MAX`]: a million peers, listed once.
pub const CONTROL_BYTES_MAX_MESH: u32 = 64 << 20;

/// Bytes that one session may send in one turn before the next session has its.
pub const TURN_SEND_BYTES: usize = 256 * 1024;

/// Bytes queued for one session at which they are sent without waiting for the end of the turn. Less would cost batches
/// in which many senders meet; with more, a turn's packets leave the cache before they are sealed.
pub const RIPE_BYTES: u32 = 32 * 1024;

/// Sessions that have got something to send since the last flush, at which they do not wait for the end of the turn any
/// longer. Less would cost batches in which many senders meet; with more, what was queued first is out of the cache.
pub const MARKED_SESSIONS: usize = 32;

/// Bytes side by side for one plain peer that are sent from where they were received. Less is better queued: others may
/// have something for the same peer.
pub const RUN_BYTES: usize = 8 * 1024;

/// KeepAlive period (protocol).
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// The most that is added to it, per connection, so that they do not beat together (protocol).
pub const KEEP_ALIVE_JITTER: Duration = Duration::from_secs(5);

/// How often a connection's round-trip time is sampled (the reference's period).
pub const RTT_SAMPLE: Duration = Duration::from_secs(10);

/// Write timeout of mesh peers (the reference's).
pub const MESH_WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A change of home counts as a move only on connections older than this (the reference's).
pub const HOME_SETTLED: Duration = Duration::from_secs(5);

/// PeerGone(NotHere) frames: burst and refill per second, per connection (the reference's).
pub const NOT_HERE_BURST: u8 = 3;

/// Times that one connection takes over from others of its key before all of them are told. A plain reconnect makes
/// one each: what the old connection still had on the way, then the new one.
pub const TAKEOVERS_BEFORE_HEALTH: u8 = 2;

/// Commands that wait for one worker; the edge retries.
pub const COMMANDS: usize = 1024;

/// Events that wait for the edge; a worker keeps what does not fit and retries.
pub const EVENTS: usize = 4096;

/// `TCP_NOTSENT_LOWAT`: what may lie unsent in the kernel, where packets can no longer be dropped but only get old.
pub const NOTSENT_LOWAT: u32 = 128 * 1024;

/// Empty buffers for what straddles reads, kept by a worker for the next that needs one. A few thousand senders in
/// mid-frame find theirs without an allocation.
pub const SPARE_BYTES: usize = 8 << 20;

/// How long a worker keeps the memory of a burst before it gives back what is beyond the ordinary.
pub const TRIM_EVERY: Duration = Duration::from_secs(30);

/// How long either side of a takeover may take to answer the other, when nothing but the answer is to be done.
pub const TAKEOVER_REPLY: Duration = Duration::from_secs(10);

/// How long a new relay may take to start before the running one goes on without it: certificates may be large, and the
/// machine busy.
pub const TAKEOVER_START: Duration = Duration::from_secs(60);

/// One message between them: names, a key, a reason.
pub const TAKEOVER_MESSAGE: usize = 4 * 1024;

/// How often a drain says how far it is.
pub const DRAIN_PROGRESS: Duration = Duration::from_secs(10);
