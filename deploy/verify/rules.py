"""Alert rules: what they owe to whoever is woken by them, and what they say about a relay under load."""

import re

from prometheus import QueryError

SEVERITIES = ("critical", "warning")


def alerts(prometheus):
    """All alerts, as Prometheus has them."""
    groups = prometheus.ask("rules")["groups"]
    return [rule for group in groups for rule in group["rules"] if rule["type"] == "alerting"]


def unhealthy(prometheus):
    """Complaints about rules that do not evaluate."""
    for group in prometheus.ask("rules")["groups"]:
        for rule in group["rules"]:
            if rule["health"] != "ok":
                yield f"rule {rule['name']}: {rule['health']}: {rule.get('lastError', '')}"


def careless(prometheus, alert_rules, begin, end, operations, tests):
    """Complaints about alerts: what they say, where they lead, what they have been tested with."""
    anchors = {_anchor(line) for line in operations.splitlines() if line.startswith("#")}
    for rule in alert_rules:
        name = rule["name"]
        if rule["labels"].get("severity") not in SEVERITIES:
            yield f"alert {name}: severity is none of {', '.join(SEVERITIES)}"
        for key in ("summary", "description"):
            if not rule["annotations"].get(key):
                yield f"alert {name} has no {key}"
        document, _, anchor = rule["annotations"].get("runbook_url", "").partition("#")
        if document != "docs/OPERATIONS.md" or anchor not in anchors:
            yield f"alert {name}: its runbook_url leads to no section of docs/OPERATIONS.md"
        if f'alertname="{name}"' not in tests:
            yield f"alert {name} fires in no case of rules_test.yml"
        try:
            prometheus.range(rule["query"], begin, end)
        except QueryError as error:
            yield f"alert {name}: {error}"


def _anchor(heading):
    """As pages that show Markdown make it."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()).replace(" ", "-")


def raised(prometheus, begin, end):
    """Alerts that were pending or firing: name, severity, state."""
    series = prometheus.range("ALERTS", begin, end)
    return sorted({(labels["alertname"], labels["severity"], labels["alertstate"]) for labels, _ in series})
