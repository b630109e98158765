"""Checks deploy/ with Prometheus on a relay under load. `--help` has the flags; deploy/verify/run brings Prometheus."""

import argparse
import contextlib
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import load
import panels
import picture
import prometheus
import rules
import scrape
from programs import Failed, Program, free_ports, output

DEPLOY = Path(__file__).resolve().parent.parent
OPERATIONS = DEPLOY.parent / "docs" / "OPERATIONS.md"
WORKERS = 2


class Findings:
    """What was checked, and every complaint."""

    def __init__(self):
        self.complaints = []

    def check(self, what, complaints):
        found = list(complaints)
        print(f"{'FAILED' if found else 'ok':>6}  {what}", flush=True)
        for complaint in found:
            print(f"        {complaint}")
        self.complaints += found


def arguments():
    parser = argparse.ArgumentParser(prog="deploy/verify/run", description=__doc__)
    parser.add_argument("--relay", required=True, type=Path, help="program derpring")
    parser.add_argument("--loadgen", required=True, type=Path, help="program derpring-loadgen")
    parser.add_argument("--seconds", type=float, default=30, help="how long there is load [default: 30]")
    parser.add_argument("--backend", default="auto", help="the relay's backend [default: auto]")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the dashboard into this SVG file")
    parser.add_argument("--note", default="", help="words under the picture, such as how the programs were built")
    parsed = parser.parse_args()
    if parsed.seconds < 20:
        parser.error("--seconds: 20 at least, or parts of the load are over before anybody looks")
    for program in (parsed.relay, parsed.loadgen):
        if not program.is_file():
            parser.error(f"{program} is not there: cargo build -p derpring -p derpring-loadgen")
    return parsed


def main():
    wanted = arguments()
    findings = Findings()
    try:
        static(findings)
        with tempfile.TemporaryDirectory(prefix="derpring-verify-") as folder:
            live(wanted, findings, Path(folder))
    except Failed as failure:
        print(f"FAILED  {failure}")
        return 1
    if findings.complaints:
        print(f"{len(findings.complaints)} complaints")
        return 1
    return 0


def static(findings):
    """What needs no relay."""
    source = DEPLOY / "prometheus"
    for what, *files in (("config", "prometheus.yml"), ("rules", "rules.yml")):
        findings.check(f"promtool check {what} {files[0]}", promtool("check", what, source / files[0]))
    findings.check("promtool test rules rules_test.yml", promtool("test", "rules", source / "rules_test.yml"))
    findings.check("form of the dashboard", panels.malformed(panels.read(DEPLOY / "grafana" / "derpring.json")))


def promtool(*words):
    status, text = output(["promtool", *words])
    return [] if status == 0 else [text.strip()]


def live(wanted, findings, folder):
    """A relay, Prometheus on it, and load; then every question that dashboard and rules ask."""
    relay_port, admin_port, prometheus_port = free_ports(3)
    admin = f"http://127.0.0.1:{admin_port}"
    config = prometheus.write_config(DEPLOY / "prometheus", folder, f"127.0.0.1:{admin_port}")
    with contextlib.ExitStack() as stack:
        command = relay_command(wanted, relay_port, admin_port, folder)
        relay = stack.enter_context(Program(command, folder / "relay.log"))
        relay.await_answer(admin + "/readyz")
        server = stack.enter_context(prometheus.Prometheus(config, prometheus_port, folder))
        await_scrape(server)
        begin = time.time()
        print(f"        load for {wanted.seconds:.0f} s", flush=True)
        load.run(wanted.loadgen, relay_port, wanted.seconds, folder)
        end = time.time()
        questions(findings, server, admin, begin, end)
        if wanted.picture:
            draw(wanted, server, begin)
        status = relay.stop()
        findings.check("the relay ends well", [] if status == 0 else [f"status {status}:\n{relay.tail()}"])


def relay_command(wanted, relay_port, admin_port, folder):
    return [wanted.relay, "serve", "--hostname", "127.0.0.1", "--cert-mode", "self-signed", "--listen",
            f"127.0.0.1:{relay_port}", "--admin-listen", f"127.0.0.1:{admin_port}", "--key-file", folder / "key",
            "--workers", WORKERS, "--backend", wanted.backend, "--stun-listen", ""]


def await_scrape(server, patience=60):
    """Until Prometheus has the relay and has forgotten that it had none, or has said why not."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        targets = server.ask("targets")["activeTargets"]
        scraped = targets and all(target["health"] == "up" for target in targets)
        if scraped and not server.ask("query", query='ALERTS{alertname="DerpringMissing"}')["result"]:
            return
        time.sleep(0.2)
    raise Failed(f"Prometheus cannot scrape the relay: {[target['lastError'] for target in targets]}")


def questions(findings, server, admin, begin, end):
    findings.check("the body of a scrape", scrape.complaints(admin))
    failed = server.range('up{job="derpring"} == 0', begin, end)
    findings.check("every scrape is answered", [f"not at {points[0][0]}" for _, points in failed])
    for name in ("derpring", "coder-panels"):
        asked = list(panels.queries(panels.read(DEPLOY / "grafana" / f"{name}.json")))
        findings.check(f"{len(asked)} queries of {name}.json have data", panels.without_data(server, asked, begin, end))
    findings.check("the dashboard's variables have values", without_variables(server, begin, end))
    findings.check("rules evaluate", rules.unhealthy(server))
    alerts = rules.alerts(server)
    texts = (OPERATIONS.read_text(encoding="utf-8"), (DEPLOY / "prometheus" / "rules_test.yml").read_text("utf-8"))
    findings.check(f"{len(alerts)} alerts", rules.careless(server, alerts, begin, end, *texts))
    raised = rules.raised(server, begin, end)
    critical = [f"{name} was {state}" for name, severity, state in raised if severity == "critical"]
    findings.check("nothing critical under this load", critical)
    for name, severity, state in raised:
        print(f"        {severity} {name} was {state}")


def without_variables(server, begin, end):
    """Complaints about variables that a query fills and that stay empty."""
    for variable in panels.read(DEPLOY / "grafana" / "derpring.json")["templating"]["list"]:
        if variable["type"] == "query":
            series, label = variable["definition"].removeprefix("label_values(").rstrip(")").split(", ")
            if not any(label in labels for labels, _ in server.range(series, begin, end)):
                yield f"${variable['name']}: no series {series} with a label {label}"


def draw(wanted, server, begin):
    build = server.ask("query", query="derpring_build_info")["result"][0]["metric"]
    run = picture.Run(begin, wanted.seconds, load.PARTS, caption(wanted, build))
    wanted.picture.write_text(picture.draw(server, panels.read(DEPLOY / "grafana" / "derpring.json"), run), "utf-8")
    print(f"        drawn: {wanted.picture}")


def caption(wanted, build):
    day = time.strftime("%Y-%m-%d", time.gmtime())
    machine = f"{len(os.sched_getaffinity(0))} processors, {platform.system()} {platform.release().split('-')[0]}"
    parts = (f"derpring {build['version']} on {build['backend']}, {WORKERS} workers, TLS", wanted.note,
             f"relay, generator and Prometheus on one machine of {machine}", day)
    return "; ".join(part for part in parts if part)


if __name__ == "__main__":
    sys.exit(main())
