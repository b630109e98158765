//! The series of Coder's relay.

use crate::control::metrics::series::{Series, Source, Split, Unit, counter, gauge};
use crate::stats::DropReason;

const REASON: Split = Split {
    label: "reason",
    count: DropReason::COUNT,
    values: || DropReason::ALL.iter().map(|reason| reason.as_str()).collect(),
};
/// In the order of the cells: data, disco.
const TYPE: Split = Split { label: "type", count: 2, values: || vec!["other", "disco"] };
const KIND: Split = Split { label: "kind", ..TYPE };

pub static SERIES: &[Series] = &[
    counter(
        "coder_derp_server_accepts_total",
        Unit::Count,
        "Connections that asked for DERP, before their login.",
        "Mesh peers are among them.",
        "A wave is a restart, of this relay or of a network in front of it. Steady growth without logins: see \
         derpring_edge_logins_total.",
        Source::Relay(|p| p.edge_sum(|e| e.derp_accepts).into()),
    ),
    counter(
        "coder_derp_server_bytes_received_total",
        Unit::Bytes,
        "Payload bytes of packets that clients sent.",
        "Packets that mesh peers forwarded are not in it.",
        "More than packets sent out by far: drops, see packets_dropped_reason_total.",
        Source::Relay(|p| p.sum(|w| w.bytes_received).into()),
    ),
    counter(
        "coder_derp_server_bytes_sent_total",
        Unit::Bytes,
        "Payload bytes of packets that were written to clients.",
        "",
        "The relay's traffic. Near what the uplink carries, queues fill.",
        Source::Relay(|p| p.sum(|w| w.bytes_sent).into()),
    ),
    counter(
        "coder_derp_server_packets_received_total",
        Unit::Count,
        "Packets that clients sent.",
        "Packets that mesh peers forwarded are not in it.",
        "Growth without more clients: direct paths are lost somewhere (a firewall, a NAT), and traffic is relayed.",
        Source::Relay(|p| p.packets_received().into()),
    ),
    counter(
        "coder_derp_server_packets_sent_total",
        Unit::Count,
        "Packets that were written to clients.",
        "",
        "Divide it by process_cpu_seconds_total to see what a packet costs.",
        Source::Relay(|p| p.sum(|w| w.packets_sent).into()),
    ),
    counter(
        "coder_derp_server_packets_dropped_total",
        Unit::Count,
        "Packets that were not delivered, for any reason.",
        "",
        "See packets_dropped_reason_total.",
        Source::Relay(|p| p.packets_dropped().into()),
    ),
    counter(
        "coder_derp_server_packets_forwarded_in_total",
        Unit::Count,
        "Packets that mesh peers forwarded to this relay.",
        "Counted before their delivery is tried.",
        "Nothing by itself: clients of one region are connected to several relays.",
        Source::Relay(|p| p.sum(|w| w.packets_forwarded_in).into()),
    ),
    counter(
        "coder_derp_server_packets_forwarded_out_total",
        Unit::Count,
        "Packets that were handed to a mesh peer.",
        "Zero: this relay does not dial mesh peers yet.",
        "Nothing by itself: clients of one region are connected to several relays.",
        Source::Relay(|_| 0_u64.into()),
    ),
    counter(
        "coder_derp_server_home_moves_in_total",
        Unit::Count,
        "Clients that made this relay their home, on connections older than five seconds.",
        "",
        "Waves of moves between regions: latencies that are nearly equal, or a network that wavers.",
        Source::Relay(|p| p.sum(|w| w.home_moves_in).into()),
    ),
    counter(
        "coder_derp_server_home_moves_out_total",
        Unit::Count,
        "Clients that left this relay as their home, on connections older than five seconds.",
        "",
        "A wave says that the relay has become slower for them, or another faster: check latency and load.",
        Source::Relay(|p| p.sum(|w| w.home_moves_out).into()),
    ),
    counter(
        "coder_derp_server_got_ping_total",
        Unit::Count,
        "Ping frames received.",
        "",
        "Clients and probers send a few a minute. Much more from few connections is a broken client.",
        Source::Relay(|p| p.sum(|w| w.got_ping).into()),
    ),
    counter(
        "coder_derp_server_sent_pong_total",
        Unit::Count,
        "Pong frames queued.",
        "One may wait per client; pings that come meanwhile are not answered.",
        "Well below got_ping_total: peers ping without reading.",
        Source::Relay(|p| p.sum(|w| w.sent_pong).into()),
    ),
    counter(
        "coder_derp_server_peer_gone_disconnected_total",
        Unit::Count,
        "Notices to clients that a peer they had heard of has left.",
        "Those that mesh watchers are sent are among them.",
        "Follows departures, times the number of peers each had. A wave is a wave of departures.",
        Source::Relay(|p| p.sum(|w| w.peer_gone_disconnected).into()),
    ),
    counter(
        "coder_derp_server_peer_gone_not_here_total",
        Unit::Count,
        "Notices to clients that the peer of a disco packet is not here.",
        "At most one a second per client, and three at once.",
        "Clients look for peers here that are at home elsewhere: a stale map, or a mesh that is not complete.",
        Source::Relay(|p| p.sum(|w| w.peer_gone_not_here).into()),
    ),
    counter(
        "coder_derp_server_unknown_frames_total",
        Unit::Count,
        "Frames of a type that this relay does not know.",
        "They are skipped. Coder's own relay never counts any.",
        "Newer clients, or somebody who tries things.",
        Source::Relay(|p| p.sum(|w| w.unknown_frames).into()),
    ),
    counter(
        "coder_derp_server_packets_dropped_reason_total",
        Unit::Count,
        "Packets that were not delivered, by reason.",
        "queue_head: the oldest of a full queue. queue_tail does not happen here. gone_disconnected: the receiver \
         left. dup_client: several connections with one key, none of them active.",
        "queue_head: a receiver is slower than its senders, or memory for queues is short \
         (derpring_worker_queue_memory_bytes). unknown_dest: see peer_gone_not_here_total. write_error, \
         gone_disconnected: departures. dup_client: two machines with one key.",
        Source::RelayBy(REASON, |p, reason| p.packets_dropped_for(reason)),
    ),
    counter(
        "coder_derp_server_packets_dropped_type_total",
        Unit::Count,
        "Packets that were not delivered, by what they are.",
        "disco packets find direct paths; other is everything else.",
        "Drops of disco hurt most: without them no direct path is found. They wait in queues of their own, so it takes \
         a receiver that does not read at all.",
        Source::RelayBy(TYPE, |p, kind| p.packets_dropped_of(kind)),
    ),
    counter(
        "coder_derp_server_packets_received_kind_total",
        Unit::Count,
        "Packets that clients sent, by what they are.",
        "disco packets find direct paths; other is everything else.",
        "Mostly disco: clients look for direct paths and find them, or have nothing to say. Mostly other: they do not \
         find them.",
        Source::RelayBy(KIND, |p, kind| p.sum(|w| w.packets_received[kind])),
    ),
    gauge(
        "coder_derp_server_connections",
        Unit::Count,
        "Open connections that are logged in; several with one key count each.",
        "Mesh peers are among them.",
        "Divide it by derpring_clients_limit. A sudden fall is a network or a restart.",
        Source::Relay(|p| p.sum(|w| w.connections).into()),
    ),
    gauge(
        "coder_derp_server_home_connections",
        Unit::Count,
        "Connections of clients whose home this relay is.",
        "",
        "Clients at home here are those that cannot do without the relay.",
        Source::Relay(|p| p.sum(|w| w.home_connections).into()),
    ),
    gauge(
        "coder_derp_server_clients",
        Unit::Count,
        "Keys that are known, here and at mesh peers.",
        "",
        "Below connections by more than a few: clients that run twice with one key.",
        Source::Relay(|p| p.replica(|w| w.keys).into()),
    ),
    gauge(
        "coder_derp_server_clients_local",
        Unit::Count,
        "Keys that are connected here.",
        "",
        "See connections.",
        Source::Relay(|p| p.replica(|w| w.keys).into()),
    ),
    gauge(
        "coder_derp_server_clients_remote",
        Unit::Count,
        "Keys that are known and not connected here.",
        "Zero: this relay does not dial mesh peers yet.",
        "Falls to zero when the mesh is lost.",
        Source::Relay(|_| 0_u64.into()),
    ),
    gauge(
        "coder_derp_server_watchers",
        Unit::Count,
        "Mesh peers that are told who is connected here.",
        "",
        "As many as there are other relays in the region. Fewer: their log says why they cannot connect.",
        Source::Relay(|p| p.sum(|w| w.watchers).into()),
    ),
    gauge(
        "coder_derp_server_average_queue_duration_ms",
        Unit::Milliseconds,
        "Running mean of the time that packets spend in the relay, in milliseconds.",
        "A tenth of each new sample, per worker; workers count by the packets they have lately sent. Samples are whole \
         milliseconds, so it is usually zero. derpring_queue_time_seconds is exact.",
        "Above 50: receivers are slower than their senders, or workers are overloaded. The histogram says how many \
         packets wait.",
        Source::Relay(|p| p.queue_ms.into()),
    ),
];
