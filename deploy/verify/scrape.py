"""What the relay itself answers to a scrape."""

import ipaddress
import re
import subprocess
import urllib.request

from programs import Failed

OURS = "derpring_"

# Complaints of promtool that stay, with the reason. None of them may be about a name of our own.
ALLOWED = {
    "coder_derp_server_average_queue_duration_ms": "Coder's name and unit, which its dashboard asks for",
}

OPEN_METRICS = "application/openmetrics-text;version=1.0.0"


def fetch(url, accept="text/plain"):
    """The body of a scrape, and its content type."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode(), answer.headers.get("Content-Type", "")
    except OSError as error:
        raise Failed(f"{url}: {error}") from error


def complaints(base):
    """What is wrong with the bodies: form, names, labels."""
    body, content_type = fetch(base + "/metrics")
    if not content_type.startswith("text/plain"):
        yield f"/metrics has the content type {content_type!r}, wanted text/plain"
    yield from _promtool(body)
    yield from _telling_labels(body)
    if _names(body) != _names(fetch(base + "/")[0]):
        yield "/ and /metrics have different series"
    openly, content_type = fetch(base + "/metrics", OPEN_METRICS)
    if not content_type.startswith("application/openmetrics-text"):
        yield f"/metrics has the content type {content_type!r} although OpenMetrics was asked for"
    if not openly.endswith("# EOF\n"):
        yield "the OpenMetrics body does not end with # EOF"
    different = _names(body) ^ _names(openly)
    if different:
        yield f"in only one of text and OpenMetrics: {', '.join(sorted(different))}"


def _promtool(body):
    done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, text=True, timeout=60,
                          check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    for line in lines:
        name = line.split()[0]
        if name in ALLOWED and not name.startswith(OURS):
            print(f"    allowed: {line} ({ALLOWED[name]})")
        else:
            yield f"promtool check metrics: {line}"
    if done.returncode != 0 and not lines:
        yield f"promtool check metrics ended with {done.returncode}"
    for name in ALLOWED:
        if not any(line.split()[0] == name for line in lines):
            yield f"{name} is allowed to be complained about, and is not: take it out of deploy/verify/scrape.py"


def _telling_labels(body):
    """A key or an address in a label is a series per client, and tells who uses the relay."""
    told = set()
    for name, labels in re.findall(r"^(\w+)\{(.*)\} ", body, re.MULTILINE):
        for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels):
            if re.fullmatch(r"(nodekey:)?[0-9a-fA-F]{16,}", value) or _is_address(value):
                told.add(f"{name} has {label}={value!r}: a key or an address")
    yield from sorted(told)


def _is_address(value):
    """With or without a port."""
    host = re.fullmatch(r"\[(.*)\]:\d+|([^:]*):\d+", value)
    try:
        ipaddress.ip_address((host[1] or host[2]) if host else value)
    except ValueError:
        return False
    return True


def _names(body):
    """Names of samples; OpenMetrics may add when they were created."""
    names = re.findall(r"^([a-zA-Z_:][\w:]*)[{ ]", body, re.MULTILINE)
    return {name for name in names if not name.endswith("_created")}
