"""Autobahn's own fuzzing client (PyPI: autobahntestsuite, for Python 2.7) against a relay: those of its cases that
want no echo. A relay is no echo server, so what it says of its own accord, ServerKey, is passed over; nothing else is
changed.

    python2.7 tests/websocket/fuzzing_client.py ws://127.0.0.1:3340/derp

What the other cases are about, tests/interop/websocket_rfc_test.go asks with DERP in the messages. Prints a line for
each case, and fails if one is not "OK" or "INFORMATIONAL", or its end is not. Of ten pings side by side Autobahn wants
ten pongs, and says itself that RFC 6455 (5.5.3) only asks for the last: here that one is enough, and others have to be
in order.
"""

from __future__ import print_function

import os
import shutil
import sys
import tempfile

from autobahntestsuite import fuzzing
from twisted.internet import reactor

CASES = [
    "2.*", "3.1", "3.5", "3.6", "3.7", "4.1.1", "4.1.2", "4.2.1", "4.2.2", "5.1", "5.2", "5.9", "5.10", "5.11", "5.12",
    "5.13", "5.14", "7.1.2", "7.1.3", "7.3.*", "7.5.1", "7.7.*", "7.9.*", "7.13.*",
]
GOOD = ("OK", "INFORMATIONAL")
TEN_PINGS = ("2.10", "2.11")

heard = fuzzing.FuzzingClientProtocol.onMessage
fuzzing.FuzzingClientProtocol.onMessage = lambda self, message, binary: binary or heard(self, message, binary)


def pongs_suffice(received):
    pongs = [("pong", "payload-%d" % number) for number in range(10)]
    return received[-1:] == pongs[-1:] and received == [pong for pong in pongs if pong in received]


def main(url):
    reports = tempfile.mkdtemp()
    try:
        server = {"agent": "relay", "url": url, "protocols": ["derp"], "options": {"version": 18}}
        spec = {"outdir": reports, "servers": [server], "cases": CASES, "exclude-cases": [], "exclude-agent-cases": {}}
        factory = fuzzing.FuzzingClientFactory(spec)
        reactor.run()
    finally:
        shutil.rmtree(reports, ignore_errors=True)
    results = factory.agents.get("relay", {})
    bad = 0
    for case in sorted(results, key=lambda name: [int(part) for part in name.split(".")]):
        result = results[case]
        if case in TEN_PINGS and pongs_suffice(result["received"]):
            result["behavior"] = "OK"
        good = result["behavior"] in GOOD and result["behaviorClose"] in GOOD
        bad += not good
        print("%s %s: %s; its end: %s" % ("ok" if good else "BAD", case, result["behavior"], result["behaviorClose"]))
        if not good:
            print("    %s\n    %s\n    received %r" % (result["result"], result["resultClose"], result["received"]))
    print("%d cases, %d of them bad" % (len(results), bad))
    return 0 if results and not bad else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
