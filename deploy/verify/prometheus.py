"""Prometheus on the configuration of deploy/prometheus, asked through its HTTP API."""

import json
import math
import shutil
import urllib.error
import urllib.parse
import urllib.request

from programs import Failed, Program

# What deploy/prometheus/prometheus.yml says, and how it is hastened and aimed for a check.
INTERVAL, TARGET = "15s", "127.0.0.1:2112"


def write_config(source, folder, target, interval="1s"):
    """The repository's configuration with another target and interval, beside its rules."""
    text = (source / "prometheus.yml").read_text(encoding="utf-8")
    for written, times, instead in ((f": {INTERVAL}\n", 2, f": {interval}\n"), (f"- {TARGET}\n", 1, f"- {target}\n")):
        if text.count(written) != times:
            raise Failed(f"prometheus.yml: expected {written.strip()!r} {times} times, found it {text.count(written)}")
        text = text.replace(written, instead)
    config = folder / "prometheus.yml"
    config.write_text(text, encoding="utf-8")
    shutil.copy(source / "rules.yml", folder)
    return config


class Prometheus(Program):
    """A Prometheus of its own."""

    def __init__(self, config, port, folder):
        self.base = f"http://127.0.0.1:{port}"
        super().__init__(["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
                          f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"], folder / "prometheus.log")
        self.await_answer(self.base + "/-/ready")

    def ask(self, path, **arguments):
        """The `data` of an answer; a refusal carries Prometheus' own words."""
        url = f"{self.base}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            words = error.read().decode(errors="replace")
            with_reason = json.loads(words).get("error", words) if words.startswith("{") else words
            raise QueryError(with_reason) from error
        except OSError as error:
            raise Failed(f"{url}: {error}; prometheus said:\n{self.tail()}") from error

    def range(self, query, begin, end, step=1.0):
        """Series of a range: labels, and points whose value is a number."""
        answer = self.ask("query_range", query=query, start=f"{begin:.3f}", end=f"{end:.3f}", step=step)
        series = []
        for one in answer["result"]:
            points = [(at, float(value)) for at, value in one["values"]]
            series.append((one["metric"], [(at, value) for at, value in points if math.isfinite(value)]))
        return series


class QueryError(Exception):
    """Prometheus did not take a query."""
