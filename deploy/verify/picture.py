"""The dashboard's main panels as one picture, with the dashboard's own queries. It reads in light and in dark."""

import math
import re
from dataclasses import dataclass
from html import escape

import panels
import units

# In this order, in rows of `COLUMNS`.
SHOWN = ("Packets", "Payload", "Dropped by reason", "Queue time", "Queue time, quantiles", "Load", "Routes", "Sessions",
         "Record fill", "Connections and logins", "Login time", "Process memory")
COLUMNS = 3
WIDTH, HEIGHT, GAP, TOP = 380, 210, 14, 92
LEFT, RIGHT, HEAD, FOOT = 66, 10, 30, 48
POINTS = 120
COLORS = ("#2f7ed8", "#e0812b", "#3a9d5d", "#c2455c", "#8a5fc4", "#1d9aa5", "#a08a1f", "#7a7f87")

STYLE = """
  .page { fill: #ffffff } .card { fill: #f6f7f9; stroke: #dfe2e6 } .grid { stroke: #dfe2e6 }
  text { fill: #2b2f36 } .faint { fill: #656c76 } .heat { fill: #d9601a }
  @media (prefers-color-scheme: dark) {
    .page { fill: #14171c } .card { fill: #1b1f26; stroke: #303640 } .grid { stroke: #303640 }
    text { fill: #d8dce2 } .faint { fill: #939ba7 } .heat { fill: #ff9446 }
  }
"""


@dataclass(frozen=True)
class Run:
    """What is drawn: the time, the parts of the load, and words about them."""

    begin: float
    seconds: float
    parts: tuple
    caption: str


def draw(prometheus, dashboard, run):
    """The whole picture."""
    wanted = {}
    for query in panels.queries(dashboard):
        wanted.setdefault(query.panel, []).append(query)
    rows = math.ceil(len(SHOWN) / COLUMNS)
    width = GAP + COLUMNS * (WIDTH + GAP)
    top = TOP + 16 * len(run.parts)
    height = top + rows * (HEIGHT + GAP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
           f'font-size="11">', f"<style>{STYLE}</style>", '<rect class="page" width="100%" height="100%"/>']
    out += _title(run, width)
    for at, title in enumerate(SHOWN):
        x, y = GAP + at % COLUMNS * (WIDTH + GAP), top + at // COLUMNS * (HEIGHT + GAP)
        out.append(f'<g transform="translate({x} {y})">')
        out += _panel(prometheus, title, wanted[title], run)
        out.append("</g>")
    return "\n".join([*out, "</svg>", ""])


def _title(run, width):
    """Title, caption, and when which part of the load ran."""
    yield f'<text x="{GAP}" y="28" font-size="17">derpring: its dashboard under load</text>'
    yield f'<text class="faint" x="{GAP}" y="48">{escape(run.caption)}</text>'
    yield f'<text class="faint" x="{GAP}" y="68">Load by derpring-loadgen, over {run.seconds:.0f} s:</text>'
    left, room = GAP + 330, width - 2 * GAP - 330
    for at, part in enumerate(run.parts):
        y, color = 84 + 16 * at, COLORS[at % len(COLORS)]
        yield f'<text x="{GAP}" y="{y}">{escape(part.name)}</text>'
        yield (f'<rect x="{left + part.begin * room:.0f}" y="{y - 8}" width="{(part.end - part.begin) * room:.0f}" '
               f'height="8" rx="2" fill="{color}"/>')


def _panel(prometheus, title, queries, run):
    yield f'<rect class="card" width="{WIDTH}" height="{HEIGHT}" rx="4"/>'
    yield f'<text x="10" y="19" font-size="12" font-weight="bold">{escape(title)}</text>'
    step = run.seconds / POINTS
    answers = [(query, prometheus.range(query.text, run.begin, run.begin + run.seconds, f"{step:.3f}"))
               for query in queries]
    if queries[0].kind == "heatmap":
        yield from _heatmap(answers[0][1], queries[0].unit, run)
    else:
        lines = [(_legend(query.legend, labels), points) for query, series in answers for labels, points in series]
        yield from _lines(lines, queries[0].unit, run)


def _legend(form, labels):
    """There is one relay: its name says nothing."""
    return re.sub(r"\{\{(\w+)\}\}", lambda m: "" if m[1] == "instance" else labels.get(m[1], ""), form).strip()


def _lines(lines, unit, run):
    """Curves, those that are zero throughout left out of the legend."""
    top, ticks = units.axis(max((value for _, points in lines for _, value in points), default=0), unit)
    yield from _axes([(tick / top, units.show(tick, unit)) for tick in ticks], run)
    lines = [(name, points) for name, points in lines if any(value for _, value in points)]
    x, y = LEFT, HEIGHT - 10
    for at, (name, points) in enumerate(lines):
        color = COLORS[at % len(COLORS)]
        for piece in _pieces(points, 3 * run.seconds / POINTS):
            place = " ".join(f"{_x(time, run):.1f},{_y(value / top):.1f}" for time, value in piece)
            yield f'<polyline points="{place}" fill="none" stroke="{color}" stroke-width="1.4"/>'
        width = 18 + 5.6 * len(name)
        if name and x + width < WIDTH:
            yield f'<rect x="{x}" y="{y - 7}" width="9" height="3" fill="{color}"/>'
            yield f'<text class="faint" x="{x + 12}" y="{y}" font-size="10">{escape(name)}</text>'
        x += width + 6


def _pieces(points, gap):
    """A curve where it is known: nothing is drawn across a time without values."""
    piece = []
    for point in points:
        if piece and point[0] - piece[-1][0] > gap:
            yield piece
            piece = []
        piece.append(point)
    yield piece


def _heatmap(series, unit, run):
    """A square per bucket and time, the stronger the more fell into it."""
    buckets = sorted((float(labels["le"]), dict(points)) for labels, points in series)
    counts = []
    below = {}
    for bound, points in buckets:
        counts.append((bound, {time: max(0.0, value - below.get(time, 0.0)) for time, value in points.items()}))
        below = points
    used = [at for at, (_, points) in enumerate(counts) if any(value >= 0.5 for value in points.values())]
    if not used:
        return
    counts = counts[used[0]:used[-1] + 1]
    most = max(value for _, points in counts for value in points.values())
    height = 1 / len(counts)
    marks = [((at + 1) * height, units.show(bound, unit)) for at, (bound, _) in enumerate(counts) if at % 4 == 3]
    yield from _axes(marks, run)
    wide = (WIDTH - LEFT - RIGHT) / POINTS
    for at, (_, points) in enumerate(counts):
        for time, value in points.items():
            if value >= 0.5:
                yield (f'<rect class="heat" x="{_x(time, run):.1f}" y="{_y((at + 1) * height):.1f}" width="{wide:.1f}" '
                       f'height="{height * (HEIGHT - HEAD - FOOT):.1f}" opacity="{math.sqrt(value / most):.2f}"/>')


def _axes(marks, run):
    for share, text in marks:
        y = _y(share)
        yield f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        yield f'<text class="faint" x="{LEFT - 5}" y="{y + 3:.1f}" text-anchor="end" font-size="10">{text}</text>'
    for quarter in range(5):
        seconds = run.seconds * quarter / 4
        anchor = "end" if quarter == 4 else "middle"
        yield (f'<text class="faint" x="{_x(run.begin + seconds, run):.1f}" y="{HEIGHT - FOOT + 14}" '
               f'text-anchor="{anchor}" font-size="10">{seconds:.0f} s</text>')


def _x(time, run):
    return LEFT + (time - run.begin) / run.seconds * (WIDTH - LEFT - RIGHT)


def _y(share):
    return HEIGHT - FOOT - share * (HEIGHT - HEAD - FOOT)
