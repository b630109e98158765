#!/usr/bin/env python3
"""Relays side by side: each pinned to one processor, the load generator to another, interleaved.

A round takes every scenario, and in it every relay in turn, each freshly started: what the machine
does over time meets all of them alike. Ratios are taken within a round and only then summed up.
See README.md in this folder.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import resource
import shlex
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOST = "derp.test"

DERPRING = (
    "{derpring} serve --listen 127.0.0.1:{port} --hostname " + HOST + " --cert-mode manual"
    " --cert-dir {certs} --key-file {dir}/derpring.key --stun-listen '' --http-listen ''"
    " --admin-listen '' --workers 1 --backend "
)
# Name and command, in the order in which they take turns.
RELAYS = {
    "derpring-uring": DERPRING + "uring",
    "derpring-epoll": DERPRING + "epoll",
    "derper": (
        "GOMAXPROCS=1 {derper} -a 127.0.0.1:{port} -http-port=-1 -stun=false -c {dir}/derper.key"
        " -hostname " + HOST + " -certmode manual -certdir {certs}"
    ),
}

# Name, what it shows, flags of the load generator.
SCENARIOS = [
    ("pairs20-8-8", "20 pairs, 8 frames per write, 8 in flight", "--pairs 20 --burst 8 --window 8"),
    ("pairs20-32-32", "20 pairs, 32 and 32", "--pairs 20 --burst 32 --window 32"),
    ("pairs20-8-8-100B", "100 B, 20 pairs, 8 and 8", "--pairs 20 --burst 8 --window 8 --size 100"),
    ("pairs200-1-1", "200 pairs, 1 and 1: nothing to batch", "--pairs 200 --burst 1 --window 1"),
    ("rate20k", "open loop, 20,000/s over 200 pairs", "--pairs 200 --rate 20000"),
    ("rate40k", "open loop, 40,000/s over 200 pairs", "--pairs 200 --rate 40000 --spin"),
    ("overrun", "20 pairs, 8 and 64: more than queues hold", "--pairs 20 --burst 8 --window 64"),
    ("onepair", "one pair, 1280 B, 16 and 64", "--pairs 1 --burst 16 --window 64 --size 1280"),
    ("idle5000", "5000 idle TLS clients", "--idle 5000 --warmup 1s --duration 2s"),
]

# Name, unit, where it is in the load generator's report, factor.
PACKET_METRICS = [
    ("CPU per packet", "us", ("relay", "cpu_us_per_packet"), 1),
    ("throughput", "packets/s", ("packets", "per_second"), 1),
    ("loss", "%", ("packets", "loss"), 100),
    ("latency p50", "us", ("packets", "latency", "p50_us"), 1),
    ("latency p99", "us", ("packets", "latency", "p99_us"), 1),
    ("latency p99.9", "us", ("packets", "latency", "p999_us"), 1),
    ("relay busy", "% of a core", ("relay", "cpu_share"), 100),
    ("generator busy", "% of a core", ("own", "cpu_share"), 100),
]
IDLE_METRICS = [
    ("memory per client", "KiB", ("relay", "rss_bytes_per_connection"), 1 / 1024),
    ("CPU per login", "us", ("relay", "cpu_us_per_login"), 1),
    ("logins", "per second", ("logins", "per_second"), 1),
]

# Exit statuses of the load generator.
GOOD, WRONG, LATE = 0, 2, 3


def main():
    args = arguments()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    raise_file_limit()
    relays = dict(spec.split("=", 1) for spec in args.relay) or RELAYS
    scenarios = [s for s in SCENARIOS if not args.only or s[0] in args.only]
    with tempfile.TemporaryDirectory(prefix="compare-") as work:
        run = Runner(args, Path(work), out)
        info = {**machine(), "arguments": public_arguments(args), "relays": relays}
        info["versions"] = {name: run.version(command) for name, command in relays.items()}
        (out / "run.json").write_text(json.dumps(info, indent=2) + "\n")
        samples = []
        with open(out / "samples.jsonl", "w") as raw:
            for turn in turns(args.rounds, scenarios, relays):
                sample = run.sample(*turn)
                samples.append(sample)
                raw.write(json.dumps(sample) + "\n")
                raw.flush()
                print(one_line(sample), flush=True)
    text = summary(info, scenarios, relays, samples, args.baseline)
    (out / "summary.md").write_text(text)
    print("\n" + text)
    return 0 if all(sample["status"] in (GOOD, LATE) for sample in samples) else 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", required=True, help="folder for raw samples and summary")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="measured time of one sample")
    parser.add_argument("--warmup", type=float, default=1)
    parser.add_argument("--relay-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--loadgen", default="target/release/derpring-loadgen")
    parser.add_argument("--derpring", default="target/release/derpring")
    parser.add_argument("--derper", default="derper")
    parser.add_argument(
        "--relay",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="instead of the built-in relays; the command may use {port}, {certs} (a folder with"
        f" {HOST}.crt and .key), {{dir}} (an empty folder) and begin with VARIABLE=VALUE",
    )
    parser.add_argument("--baseline", default="derper", help="the relay that ratios refer to")
    names = [scenario[0] for scenario in SCENARIOS]
    parser.add_argument("--only", nargs="+", choices=names, help="these scenarios only")
    args = parser.parse_args()
    for spec in args.relay:
        if "=" not in spec:
            parser.error(f"--relay {spec}: give NAME=COMMAND")
    for program in (args.loadgen, "openssl", "taskset"):
        if not shutil.which(program):
            parser.error(f"{program} is not there; build or install it, or name it with a flag")
    return args


def turns(rounds, scenarios, relays):
    for number in range(1, rounds + 1):
        for scenario in scenarios:
            for relay in relays.items():
                yield number, scenario, relay


class Runner:
    def __init__(self, args, work, out):
        self.args, self.work, self.out = args, work, out
        self.certs = work / "certs"
        self.certs.mkdir()
        self.pin = make_certificate(self.certs)
        (out / "logs").mkdir(exist_ok=True)

    def command(self, template, port, folder):
        text = template.format(
            port=port,
            certs=self.certs,
            dir=folder,
            derpring=shlex.quote(self.args.derpring),
            derper=shlex.quote(self.args.derper),
        )
        env, words = dict(os.environ), shlex.split(text)
        while words and "=" in words[0] and "/" not in words[0].split("=")[0]:
            name, value = words.pop(0).split("=", 1)
            env[name] = value
        return env, words

    def version(self, template):
        env, words = self.command(template, 0, self.work)
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            result = subprocess.run(
                [words[0], "--version"], env=env, capture_output=True, text=True, timeout=10
            )
            return result.stdout.strip()
        return ""

    def sample(self, number, scenario, relay):
        name, template = relay
        sample = {"round": number, "scenario": scenario[0], "relay": name}
        with open(self.out / "logs" / f"{name}.log", "ab") as log:
            try:
                with self.running(template, log) as (pid, port):
                    return {**sample, **self.load(scenario, pid, port)}
            except RelayFailed as err:
                return {**sample, "status": None, "error": str(err), "report": None}

    @contextlib.contextmanager
    def running(self, template, log):
        port = free_port()
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            env, words = self.command(template, port, folder)
            pinned = ["taskset", "-c", str(self.args.relay_cpu), *words]
            # taskset becomes the relay: the process is the one that we started.
            relay = subprocess.Popen(pinned, env=env, stdout=log, stderr=log)
            try:
                wait_for(relay, port)
                yield relay.pid, port
            finally:
                relay.terminate()
                try:
                    relay.wait(10)
                except subprocess.TimeoutExpired:
                    relay.kill()
                    relay.wait()

    def load(self, scenario, pid, port):
        report = self.work / "report.json"
        report.unlink(missing_ok=True)
        command = [
            self.args.loadgen,
            *("--url", f"https://127.0.0.1:{port}/derp", "--server-name", HOST, "--pin", self.pin),
            *("--duration", f"{self.args.seconds}s", "--warmup", f"{self.args.warmup}s"),
            *("--cpu", str(self.args.load_cpu), "--relay-pid", str(pid), "--json", str(report)),
            *shlex.split(scenario[2]),
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        return {
            "status": result.returncode,
            "error": result.stderr.strip(),
            "report": json.loads(report.read_text()) if report.exists() else None,
        }


class RelayFailed(Exception):
    pass


def wait_for(relay, port, limit=10):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if relay.poll() is not None:
            raise RelayFailed(f"the relay ended with {relay.returncode} at its start: see logs/")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            # What the probe left behind must not be part of the measurement.
            time.sleep(0.2)
            return
        time.sleep(0.02)
    raise RelayFailed(f"the relay did not listen within {limit} s: see logs/")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_certificate(folder):
    """Makes an ECDSA P-256 certificate, and returns its SHA-256."""
    crt, key = folder / f"{HOST}.crt", folder / f"{HOST}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "30", "-subj", f"/CN={HOST}", "-keyout", key, "-out", crt),
            *("-addext", f"subjectAltName=DNS:{HOST}"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
        ],
        check=True,
        capture_output=True,
    )
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(crt.read_text())).hexdigest()


def raise_file_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def machine():
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((l.split(":")[1].strip() for l in lines if l.startswith("model name")), "")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "processor": model,
        "processors": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
    }


def public_arguments(args):
    """What shapes the figures; where programs and results are does not."""
    names = ("rounds", "seconds", "warmup", "relay_cpu", "load_cpu", "only")
    return {name: getattr(args, name) for name in names}


def metrics(scenario):
    return IDLE_METRICS if "--idle" in scenario[2] else PACKET_METRICS


def value(sample, metric):
    at = sample["report"]
    for key in metric[2]:
        at = at and at.get(key)
    return None if at is None else at * metric[3]


def one_line(sample):
    head = f"round {sample['round']}  {sample['scenario']:<18} {sample['relay']:<16}"
    if sample["report"] is None:
        return f"{head} FAILED: {sample['error']}"
    scenario = next(s for s in SCENARIOS if s[0] == sample["scenario"])
    shown = [(metric, value(sample, metric)) for metric in metrics(scenario)[:5]]
    values = "  ".join(f"{m[0]} {number(v)} {m[1]}" for m, v in shown if v is not None)
    return f"{head} {values}{'  LATE' if sample['status'] == LATE else ''}"


def number(x):
    if x == 0 or abs(x) >= 100:
        return f"{x:,.0f}"
    return f"{x:.2f}" if abs(x) >= 1 else f"{x:.3f}"


def summary(info, scenarios, relays, samples, baseline):
    lines = [
        "# Relays side by side",
        "",
        f"{info['date']}, {info['processors']} processors ({info['processor']}), kernel"
        f" {info['kernel']}, load {info['load_at_start']:.2f} at the start.",
        f"{info['arguments']['rounds']} interleaved rounds of {info['arguments']['seconds']} s,"
        " TLS 1.3 AES-128-GCM, 1400 B unless said. Relay and generator on one processor each.",
        "",
        f"Medians over the rounds; in brackets the ratio to {baseline}: median of the rounds'"
        " ratios, then the least and the greatest.",
    ]
    for scenario in scenarios:
        lines += ["", f"## {scenario[0]}: {scenario[1]}", "", f"`{scenario[2]}`", ""]
        lines += table(scenario, relays, samples, baseline)
    bad = [sample for sample in samples if sample["status"] != GOOD]
    if bad:
        lines += ["", "## Samples with a reservation", ""]
        lines += [f"- {one_line(sample)} {reason(sample)}" for sample in bad]
    return "\n".join(lines) + "\n"


def table(scenario, relays, samples, baseline):
    lines = ["| | " + " | ".join(relays) + " |", "|---|" + "---:|" * len(relays)]
    for metric in metrics(scenario):
        values = {}
        for sample in samples:
            if sample["scenario"] == scenario[0]:
                values[sample["relay"], sample["round"]] = value(sample, metric)
        cells = [cell(values, relay, baseline) for relay in relays]
        lines.append(f"| {metric[0]}, {metric[1]} | " + " | ".join(cells) + " |")
    return lines


def cell(values, relay, baseline):
    own = {turn: v for (name, turn), v in values.items() if name == relay and v is not None}
    if not own:
        return "failed"
    text = number(statistics.median(own.values()))
    ratios = [v / base for turn, v in own.items() if (base := values.get((baseline, turn)))]
    if relay == baseline or not ratios:
        return text
    low, mid, high = min(ratios), statistics.median(ratios), max(ratios)
    return f"{text} ({mid:.2f}, {low:.2f}..{high:.2f})"


def reason(sample):
    if sample["status"] == WRONG:
        return "(the relay delivered something wrong)"
    notes = sample["report"]["verdict"]["notes"] if sample["report"] else []
    return f"({'; '.join(notes)})" if notes else ""


if __name__ == "__main__":
    sys.exit(main())
