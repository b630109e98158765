"""The load: what panels are to show something of, in parts that begin and end at a share of the whole time."""

import contextlib
import socket
import ssl
import time
from dataclasses import dataclass

from programs import Failed, Program, Repeated

# Of the generator: complete, and complete but late, which spoils only its own latencies.
STATUSES = (0, 3)

# For a machine that others freeze for a while.
PATIENCE = 300


@dataclass(frozen=True)
class Part:
    """One generator, from and until a share of the time."""

    name: str
    begin: float
    end: float
    flags: str


PARTS = (
    Part("40 pairs: 4,000 packets/s of mixed sizes, and disco", 0.0, 1.0,
         "--pairs 40 --rate 4000 --sizes imix --disco 40"),
    Part("2 pairs in TLS 1.2", 0.0, 1.0, "--pairs 2 --rate 50 --tls 1.2"),
    Part("40 logins/s, 60 idle clients", 0.15, 0.4, "--churn 40 --idle 60"),
    Part("20 pairs more: 20,000 packets/s of 1,400 bytes", 0.3, 0.6, "--pairs 20 --rate 20000"),
    Part("all of 8 to all others: 5,000 packets/s", 0.5, 0.7, "--all-to-all 8 --rate 5000"),
    Part("2 receivers that are slower than their senders", 0.65, 0.85,
         "--slow 2 --slow-read 4000000 --bulk-window 2000"),
)


def run(loadgen, port, seconds, folder):
    """Puts all parts and some strangers on the relay, and returns when they have ended."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(Repeated(lambda: _strangers(port), 0.25))
        running = []
        began = time.monotonic()
        for at, part in enumerate(sorted(PARTS, key=lambda part: part.begin)):
            time.sleep(max(0.0, began + part.begin * seconds - time.monotonic()))
            length = (part.end - part.begin) * seconds
            command = [loadgen, "--url", f"https://127.0.0.1:{port}", "--insecure", "--warmup", "0s", "--duration",
                       f"{length:.1f}s", *part.flags.split()]
            running.append((part, length, stack.enter_context(Program(command, folder / f"loadgen-{at}.log"))))
        for part, length, program in running:
            status = program.status(length + PATIENCE)
            if status not in STATUSES:
                raise Failed(f"the load {part.name!r} ended with {status}:\n{program.tail()}")


def _strangers(port):
    """Who is not a client: a browser, a port scanner, and somebody who opens a connection and says nothing."""
    with contextlib.suppress(OSError):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
            plain.recv(1024)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as silent:
            trusting = ssl.create_default_context()
            trusting.check_hostname = False
            trusting.verify_mode = ssl.CERT_NONE
            with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
                with trusting.wrap_socket(plain) as browser:
                    browser.sendall(b"GET /generate_204 HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
                    browser.recv(1024)
            silent.settimeout(1)
            silent.recv(1)
