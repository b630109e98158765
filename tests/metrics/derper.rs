//! derper's two forms: names, types, order, sets, histograms.

use std::time::{SystemTime, UNIX_EPOCH};

use derpring::stats::{DropReason, StunResult};
use serde_json::{Value, json};

use crate::ground::{Ground, MEMORY_AT_START, UPTIME, ground};
use crate::scrape::read_text;

/// What derper's set `derp` has, in its order, with what its names become.
const DERP: [(&str, &str, &str); 38] = [
    ("accepts", "counter", "derp_accepts"),
    ("average_queue_duration_ms", "untyped", "derp_average_queue_duration_ms"),
    ("bytes_received", "counter", "derp_bytes_received"),
    ("bytes_sent", "counter", "derp_bytes_sent"),
    ("counter_buffered_write_frames", "histogram", "derp_buffered_write_frames"),
    ("counter_mesh_update_batch_size", "histogram", "derp_mesh_update_batch_size"),
    ("counter_mesh_update_loop_count", "histogram", "derp_mesh_update_loop_count"),
    ("counter_packets_received_kind", "counter", "derp_packets_received_kind"),
    ("counter_tcp_rtt", "counter", "derp_tcp_rtt"),
    ("counter_total_dup_client_conns", "counter", "derp_total_dup_client_conns"),
    ("gauge_clients_local", "gauge", "derp_clients_local"),
    ("gauge_clients_remote", "gauge", "derp_clients_remote"),
    ("gauge_clients_total", "gauge", "derp_clients_total"),
    ("gauge_current_connections", "gauge", "derp_current_connections"),
    ("gauge_current_dup_client_conns", "gauge", "derp_current_dup_client_conns"),
    ("gauge_current_dup_client_keys", "gauge", "derp_current_dup_client_keys"),
    ("gauge_current_file_descriptors", "gauge", "derp_current_file_descriptors"),
    ("gauge_current_home_connections", "gauge", "derp_current_home_connections"),
    ("gauge_current_notideal_connections", "gauge", "derp_current_notideal_connections"),
    ("gauge_memstats_sys0", "gauge", "derp_memstats_sys0"),
    ("gauge_watchers", "gauge", "derp_watchers"),
    ("got_ping", "counter", "derp_got_ping"),
    ("home_moves_in", "counter", "derp_home_moves_in"),
    ("home_moves_out", "counter", "derp_home_moves_out"),
    ("multiforwarder_created", "counter", "derp_multiforwarder_created"),
    ("multiforwarder_deleted", "counter", "derp_multiforwarder_deleted"),
    ("packet_forwarder_delete_other_value", "counter", "derp_packet_forwarder_delete_other_value"),
    ("packets_forwarded_in", "counter", "derp_packets_forwarded_in"),
    ("packets_forwarded_out", "counter", "derp_packets_forwarded_out"),
    ("packets_received", "counter", "derp_packets_received"),
    ("packets_sent", "counter", "derp_packets_sent"),
    ("peer_gone_disconnected_frames", "counter", "derp_peer_gone_disconnected_frames"),
    ("peer_gone_not_here_frames", "counter", "derp_peer_gone_not_here_frames"),
    ("sclient_write_timeouts", "counter", "derp_sclient_write_timeouts"),
    ("sent_pong", "counter", "derp_sent_pong"),
    ("unknown_frames", "counter", "derp_unknown_frames"),
    // The drop counters are not in the set; they follow it.
    ("", "counter", "derp_bytes_dropped"),
    ("", "counter", "derp_packets_dropped"),
];

/// What Coder's relay has in the set besides: JSON only, as in varz one of them would have the name of another.
const CODER: [&str; 3] = ["counter_packets_dropped_reason", "counter_packets_dropped_type", "packets_dropped"];

fn vars(ground: &Ground) -> Value {
    serde_json::from_str(&ground.collector.vars_json()).unwrap()
}

/// Names of the members in the order in which they are printed; what is nested is skipped.
fn members(json: &str) -> Vec<String> {
    let (mut depth, mut out, mut rest) = (0, Vec::new(), json);
    while let Some(at) = rest.find(['{', '}', '[', ']', '"']) {
        let mark = rest.as_bytes()[at];
        rest = &rest[at + 1..];
        match mark {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {
                let (text, behind) = rest.split_once('"').unwrap();
                rest = behind;
                if depth == 1 && rest.starts_with(':') {
                    out.push(text.to_owned());
                }
            }
        }
    }
    out
}

#[test]
fn the_set_has_derpers_names_in_derpers_order() {
    let ground = ground(true);
    let set = vars(&ground)["derp"].as_object().unwrap().clone();
    let mut wanted: Vec<&str> = DERP.iter().map(|(raw, ..)| *raw).filter(|raw| !raw.is_empty()).collect();
    wanted.extend(CODER);
    wanted.push("version");
    wanted.sort_unstable();
    let mut there: Vec<&str> = set.keys().map(String::as_str).collect();
    there.sort_unstable();
    assert_eq!(there, wanted);
    let text = ground.collector.vars_json();
    let begin = text.find("\"derp\": {").unwrap() + "\"derp\": ".len();
    let end = text[begin..].find("},\n").unwrap();
    assert_eq!(members(&text[begin..=begin + end]), wanted, "sorted, as expvar sorts");
}

#[test]
fn the_top_level_of_vars_is_derpers() {
    let wanted = [
        "cmdline",
        "counter_bootstrap_dns_published_hits",
        "counter_bootstrap_dns_published_misses",
        "counter_bootstrap_dns_queried_domains",
        "counter_bootstrap_dns_requests",
        "counter_bootstrap_dns_unpublished_hits",
        "counter_bootstrap_dns_unpublished_misses",
        "counter_bootstrap_dns_unpublished_percent_misses",
        "counter_uptime_sec",
        "derp",
        "derp_bytes_dropped",
        "derp_packets_dropped",
        "derp_websocket_accepts",
        "derper_tls_request_version",
        "gauge_derper_tls_active_version",
        "node_boot_time_seconds",
        "process",
        "process_start_unix_time",
        "stun",
        "tls_listener",
        "version",
    ];
    let ground_tls = ground(true);
    assert_eq!(members(&ground_tls.collector.vars_json()), wanted);
    let plain = ground(false);
    let without: Vec<&str> = wanted.into_iter().filter(|name| *name != "tls_listener").collect();
    assert_eq!(members(&plain.collector.vars_json()), without, "there is no TLS listener");

    let vars = vars(&ground_tls);
    assert_eq!(vars["version"], "1.2.3");
    assert_eq!(vars["derp"]["version"], "1.2.3");
    assert_eq!(vars["derp"]["gauge_memstats_sys0"], MEMORY_AT_START);
    assert!(vars["counter_uptime_sec"].as_u64().unwrap() >= UPTIME.as_secs());
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - UPTIME;
    assert!(vars["process_start_unix_time"].as_u64().unwrap().abs_diff(started.as_secs()) < 60);
    assert!(vars["node_boot_time_seconds"].as_u64().unwrap() > 1_000_000_000);
    let program = std::env::args().next().unwrap();
    assert_eq!(vars["cmdline"][0], program);
    let families = json!({ "ipv4": 0, "ipv6": 0 });
    let requests = json!({ "not_stun": 0, "read_error": 0, "success": 0, "write_error": 0 });
    assert_eq!(vars["stun"], json!({ "counter_addrfamily": families, "counter_requests": requests }));
    for name in ["cpu_seconds", "open_fds", "max_fds", "resident_memory_bytes", "virtual_memory_bytes"] {
        assert!(vars["process"][name].as_f64().unwrap() > 0.0, "{name}");
    }
}

#[test]
fn numbers_are_those_of_the_cells_in_both_forms() {
    let ground = ground(true);
    let worker = &ground.workers[1];
    worker.packets_received[0].add(4);
    worker.packets_received[1].add(3);
    worker.drop_packets(DropReason::QueueHead, true, 2, 300);
    worker.drop_packets(DropReason::UnknownDest, false, 1, 50);
    worker.dup_conns_total.add(5);
    worker.write_timeouts.add(6);
    worker.round_trip[0].add(7);
    worker.round_trip[9].add(1);
    worker.write_frames.record(2);
    worker.write_frames.record(1000);
    ground.workers[0].keys.set(8);
    ground.edges[0].accepts.add(9);
    ground.edges[1].tls13.add(10);
    worker.tls_connections[0].set(13);
    ground.edges[1].websocket_accepts.add(11);
    ground.edges[0].derp_accepts.add(12);
    let stun = |result: StunResult, family: usize, n| ground.stun.requests[result as usize][family].add(n);
    stun(StunResult::Answered, 0, 18);
    stun(StunResult::Refused, 1, 9);
    stun(StunResult::WriteError, 0, 3);
    stun(StunResult::WriteError, 1, 1);
    stun(StunResult::NotStun, 0, 5);
    stun(StunResult::RateLimited, 0, 100);
    ground.stun.read_errors.add(6);

    let vars = vars(&ground);
    let derp = &vars["derp"];
    assert_eq!(derp["packets_received"], 7);
    assert_eq!(derp["counter_packets_received_kind"], json!({ "disco": 3, "other": 4 }));
    assert_eq!(
        (&derp["packets_dropped"], &derp["counter_packets_dropped_type"]),
        (&json!(3), &json!({ "disco": 2, "other": 1 }))
    );
    assert_eq!(derp["counter_packets_dropped_reason"]["queue_head"], 2);
    assert_eq!(derp["counter_packets_dropped_reason"].as_object().unwrap().len(), 7);
    assert_eq!((&derp["gauge_clients_total"], &derp["gauge_clients_local"]), (&json!(8), &json!(8)));
    assert_eq!(derp["counter_tcp_rtt"]["10ms"], 7);
    assert_eq!(derp["counter_tcp_rtt"].as_object().unwrap().len(), 10);
    assert_eq!(vars["derp_packets_dropped"]["queue_head/disco"], 2);
    assert_eq!(vars["derp_bytes_dropped"]["unknown_dest/other"], 50);
    assert_eq!(vars["derp_packets_dropped"].as_object().unwrap().len(), 14);
    assert_eq!(vars["derper_tls_request_version"], json!({ "1.2": 0, "1.3": 10 }));
    assert_eq!(vars["tls_listener"]["counter_accepted_connections"], 9);
    let requests = json!({ "not_stun": 5, "read_error": 6, "success": 27, "write_error": 4 });
    assert_eq!(vars["stun"]["counter_requests"], requests, "what is over our limit is in none of derper's");
    let frames = &derp["counter_buffered_write_frames"];
    assert_eq!(
        [&frames["1"], &frames["2"], &frames["100"], &frames["+Inf"], &frames["count"]],
        [0, 1, 1, 2, 2].map(|n| json!(n)).each_ref()
    );
    assert_eq!((&frames["sum"], frames.as_object().unwrap().len()), (&json!(1002), 19));
    let text = ground.collector.vars_json();
    assert!(text.contains("\"+Inf\": 2,\"sum\": 1002,\"count\": 2}"), "bounds rise, sums follow: {text}");

    let varz = ground.collector.varz();
    for line in [
        "derp_packets_received 7",
        "derp_packets_received_kind{kind=\"disco\"} 3",
        "derp_packets_dropped{reason=\"queue_head\",kind=\"disco\"} 2",
        "derp_bytes_dropped{reason=\"unknown_dest\",kind=\"other\"} 50",
        "derp_total_dup_client_conns 5",
        "derp_sclient_write_timeouts 6",
        "derp_tcp_rtt{le=\"10ms\"} 7",
        "derp_tcp_rtt{le=\"error\"} 1",
        "derp_clients_total 8",
        "derp_accepts 12",
        "derp_buffered_write_frames_bucket{le=\"2\"} 1",
        "derp_buffered_write_frames_bucket{le=\"+Inf\"} 2",
        "derp_buffered_write_frames_sum 1002",
        "derp_buffered_write_frames_count 2",
        "derp_mesh_update_batch_size_bucket{le=\"1000\"} 0",
        "derp_mesh_update_loop_count_bucket{le=\"+Inf\"} 0",
        "derp_websocket_accepts 11",
        "derper_tls_request_version{version=\"1.3\"} 10",
        "derper_tls_active_version{version=\"1.2\"} 13",
        "stun_addrfamily{family=\"ipv4\"} 21",
        "stun_addrfamily{family=\"ipv6\"} 10",
        "stun_requests{disposition=\"success\"} 27",
        "stun_requests{disposition=\"not_stun\"} 5",
        "stun_requests{disposition=\"read_error\"} 6",
        "stun_requests{disposition=\"write_error\"} 4",
        "tls_listener_accepted_connections 9",
        "tls_listener_rejected_connections 0",
        "version{version=\"1.2.3\",binary=\"derpring\"} 1",
    ] {
        assert_eq!(varz.lines().filter(|there| *there == line).count(), 1, "{line} in\n{varz}");
    }
}

#[test]
fn varz_has_derpers_names_types_and_order() {
    let varz = ground(true).collector.varz();
    // One entry for each family: its type where it says one, and its name.
    let mut there: Vec<(&str, &str)> = Vec::new();
    for line in varz.lines() {
        let (kind, name) = match line.strip_prefix("# TYPE ").map(|rest| rest.split_once(' ').unwrap()) {
            Some((name, kind)) => (kind, name),
            None if line.starts_with('#') => continue,
            None => ("untyped", line.split([' ', '{']).next().unwrap()),
        };
        let parts = ["_bucket", "_sum", "_count"];
        let of_last = there.last().is_some_and(|(kind, last)| {
            name == *last || (*kind == "histogram" && parts.iter().any(|part| name == format!("{last}{part}")))
        });
        if !of_last {
            there.push((kind, name));
        }
    }
    let process = [
        ("counter", "process_cpu_seconds_total"),
        ("gauge", "process_resident_memory_bytes"),
        ("gauge", "process_virtual_memory_bytes"),
        ("gauge", "process_open_fds"),
        ("gauge", "process_max_fds"),
        ("gauge", "process_start_time_seconds"),
    ];
    let before = [
        ("counter", "bootstrap_dns_published_hits"),
        ("counter", "bootstrap_dns_published_misses"),
        ("counter", "bootstrap_dns_queried_domains"),
        ("counter", "bootstrap_dns_requests"),
        ("counter", "bootstrap_dns_unpublished_hits"),
        ("counter", "bootstrap_dns_unpublished_misses"),
        ("counter", "bootstrap_dns_unpublished_percent_misses"),
    ];
    let behind = [
        ("counter", "derp_websocket_accepts"),
        ("gauge", "derper_tls_active_version"),
        ("untyped", "derper_tls_request_version"),
        ("untyped", "node_boot_time_seconds"),
        ("untyped", "process_start_unix_time"),
        ("counter", "stun_addrfamily"),
        ("counter", "stun_requests"),
        ("counter", "tls_listener_accepted_connections"),
        ("counter", "tls_listener_rejected_connections"),
        ("counter", "uptime_sec"),
        ("untyped", "version"),
    ];
    let derp = DERP.map(|(_, kind, name)| (kind, name));
    assert_eq!(there, [&process[..], &before, &derp, &behind].concat());
}

/// An oddity that derper has there and nowhere else.
#[test]
fn drop_counters_say_their_type_before_their_help() {
    let varz = ground(true).collector.varz();
    for what in ["bytes", "packets"] {
        let oddity = format!(
            "# TYPE derp_{what}_dropped counter\n\
             # HELP derp_{what}_dropped DERP {what} dropped by reason and by kind\n\
             derp_{what}_dropped{{reason=\"dup_client\",kind=\"disco\"}} 0\n\
             derp_{what}_dropped{{reason=\"dup_client\",kind=\"other\"}} 0\n\
             derp_{what}_dropped{{reason=\"gone_disconnected\",kind=\"disco\"}} 0\n"
        );
        assert!(varz.contains(&oddity), "{oddity} in\n{varz}");
        assert_eq!(varz.lines().filter(|line| line.starts_with(&format!("derp_{what}_dropped{{"))).count(), 14);
    }
}

/// The parser is narrower than Prometheus in two things, which it is spared: it takes what has no type for more of the
/// family before, and a family's name that ends in `_count` for a part of one.
#[test]
fn prometheus_reads_varz() {
    let mut varz = ground(true).collector.varz().replace("derp_mesh_update_loop_count", "derp_mesh_update_loops");
    for name in [
        "derp_average_queue_duration_ms",
        "derper_tls_request_version",
        "node_boot_time_seconds",
        "process_start_unix_time",
        "version",
    ] {
        let at = varz.find(&format!("\n{name}")).unwrap_or_else(|| panic!("{name} is in\n{varz}")) + 1;
        varz.insert_str(at, &format!("# TYPE {name} untyped\n"));
    }
    let scrape = read_text(&varz);
    assert_eq!(scrape["derp_buffered_write_frames"].kind, "histogram");
    assert_eq!(scrape["derp_packets_dropped"].samples.len(), 14);
}
