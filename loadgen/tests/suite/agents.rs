//! Several generators as one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use derpring_loadgen::measure::proc::Sample;

use crate::fake_relay::{FakeRelay, Fault};
use crate::run::run;

struct Agent {
    child: Child,
    addr: String,
}

impl Agent {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_derpring-loadgen"))
            .args(["--agent", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.strip_prefix("agent on ").unwrap().split(": ").next().unwrap().to_owned();
        Self { child, addr }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn agents_share_the_load_and_their_results_are_one() {
    let relay = FakeRelay::start(Fault::None);
    let agents = [Agent::start(), Agent::start()];
    let list = format!("{},{}", agents[0].addr, agents[1].addr);
    // An agent serves one run after the other.
    for _ in 0..2 {
        let before = relay.logins();
        let run = run(&relay, &["--pairs", "3", "--agents", &list]);
        assert_eq!(run.exit, 0, "{}{}", run.stdout, run.stderr);
        assert_eq!(relay.logins() - before, 6);
        assert_eq!(run.json["logins"]["time"]["count"], 6);
        assert!(run.packets("sent") > 0);
        assert_eq!((run.packets("lost"), run.packets("arrived")), (0, run.packets("sent")));
        assert_eq!(run.json["packets"]["latency"]["count"], run.json["packets"]["arrived"]);
        // Who made the load is both: either alone, or the driver, has about half of that.
        let peaks: u64 = agents.iter().map(|agent| Sample::of(agent.child.id()).unwrap().peak_rss_bytes).sum();
        let own = run.json["own"]["rss_peak"].as_u64().unwrap();
        assert!(own <= peaks && 4 * own > 3 * peaks, "{own} of {peaks}");
    }
}

#[test]
fn a_wrong_packet_at_an_agent_ends_the_run_with_2() {
    let relay = FakeRelay::start(Fault::Corrupt { at: 20, byte: 100 });
    let agent = Agent::start();
    let run = run(&relay, &["--pairs", "1", "--duration", "60s", "--agents", &agent.addr]);
    assert_eq!(run.exit, 2, "{}", run.stderr);
    assert!(run.stderr.contains("wrong delivery to receiver 0"), "{}", run.stderr);
}

#[test]
fn an_agent_that_dies_ends_the_run() {
    let relay = FakeRelay::start(Fault::None);
    let mut agents = [Agent::start(), Agent::start()];
    let list = format!("{},{}", agents[0].addr, agents[1].addr);
    std::thread::scope(|scope| {
        let relay = &relay;
        let started = Instant::now();
        let run = scope.spawn(move || run(relay, &["--pairs", "2", "--duration", "1h", "--agents", &list]));
        while relay.logins() < 4 {
            std::thread::sleep(Duration::from_millis(10));
        }
        agents[0].child.kill().unwrap();
        let run = run.join().unwrap();
        assert_eq!(run.exit, 1, "{}", run.stdout);
        assert!(run.stderr.contains(&format!("lost {}", agents[0].addr)), "{}", run.stderr);
        assert!(started.elapsed() < Duration::from_secs(600));
    });
}

#[test]
fn another_version_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        let body = br#"{"protocol":999,"version":"9.9.9"}"#;
        stream.write_all(&[&(body.len() as u32).to_be_bytes()[..], body].concat()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let relay = FakeRelay::start(Fault::None);
    let run = run(&relay, &["--pairs", "1", "--agents", &addr]);
    assert_eq!(run.exit, 1);
    assert!(run.stderr.contains("9.9.9") && run.stderr.contains("same version"), "{}", run.stderr);
}
