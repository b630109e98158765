"""Dashboards: their queries as Grafana would send them, and what their JSON owes to whoever imports it."""

import json
import re
from dataclasses import dataclass

# What Grafana puts in, and what stands for it here.
RATE_INTERVAL = "10s"
VARIABLES = ("instance", "namespace", "pod", "container")


@dataclass(frozen=True)
class Query:
    """One query of a panel."""

    panel: str
    kind: str
    unit: str
    legend: str
    text: str


def read(path):
    """The JSON of a dashboard."""
    return json.loads(path.read_text(encoding="utf-8"))


def queries(dashboard):
    """All queries of all panels."""
    for panel in _panels(dashboard["panels"]):
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "short")
        unit = panel.get("options", {}).get("yAxis", {}).get("unit", unit)
        for target in panel.get("targets", []):
            yield Query(panel["title"], panel.get("type", ""), unit, target.get("legendFormat", ""),
                        fill_in(target["expr"]))


def fill_in(text, interval=RATE_INTERVAL):
    """A query with the values of its variables: everything."""
    text = text.replace("$__rate_interval", interval)
    for name in VARIABLES:
        text = re.sub(rf"\${name}\b", ".*", text)
    return text


def _panels(panels):
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels", []))


def without_data(prometheus, wanted, begin, end):
    """Complaints about queries that no series answers, or whose series have no point that is a number."""
    for query in wanted:
        where = f"panel {query.panel!r}: {query.text}"
        if "$" in query.text:
            yield f"{where}: a variable that is not known: add it to deploy/verify/panels.py"
            continue
        series = prometheus.range(query.text, begin, end)
        if not series:
            yield f"{where}: no series"
        elif not any(points for _, points in series):
            yield f"{where}: {len(series)} series without any number in them"


def malformed(dashboard):
    """Complaints about what an import or an eye would stumble over."""
    panels = [panel for panel in _panels(dashboard["panels"])]
    ids = [panel["id"] for panel in panels]
    for doubled in sorted({one for one in ids if ids.count(one) > 1}):
        yield f"the id {doubled} belongs to several panels"
    taken = {}
    for panel in panels:
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            yield f"panel {panel['title']!r} is wider than the 24 columns"
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            if cell in taken:
                yield f"panel {panel['title']!r} lies on {taken[cell]!r}"
                break
            taken[cell] = panel["title"]
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            yield f"panel {panel['title']!r} has no description"
        for target in panel["targets"]:
            if target.get("datasource", {}).get("uid") != "${datasource}":
                yield f"panel {panel['title']!r} does not use the data source that is chosen"
            unfiltered = re.findall(r'(\w+)\{(?![^}]*instance=~"\$instance")', target["expr"])
            if unfiltered or 'instance=~"$instance"' not in target["expr"]:
                yield f"panel {panel['title']!r} does not ask for the relay that is chosen: {target['expr']}"
