"""Numbers with the units that Grafana knows by these names."""

import math

DECIMAL = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
BINARY = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
SECONDS = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))
SUFFIX = {"pps": "/s", "ops": "/s", "reqps": "/s", "bps": "bit/s", "ms": " ms", "percentunit": " %"}


def show(value, unit):
    """A number as short as it can be told."""
    if unit == "percentunit":
        return f"{value * 100:.3g}{SUFFIX[unit]}"
    scale = {"bytes": BINARY, "s": SECONDS}.get(unit, DECIMAL)
    size, name = next((one for one in scale if abs(value) >= one[0]), scale[-1])
    space = " " if name and (unit in ("bytes", "s", "bps")) else ""
    return f"{value / size:.3g}{space}{name}{SUFFIX.get(unit, '')}"


def axis(most, unit):
    """The top of an axis that has room for `most`, and its marks."""
    if most <= 0:
        return 1.0, (0.0,)
    if unit == "bytes":
        size = next(size for size, _ in (*BINARY, (most, "")) if most >= size)
        step = _round(most / size / 4) * size
    else:
        step = _round(most / 4)
    marks = math.ceil(most / step - 1e-9)
    return step * marks, [step * at for at in range(marks + 1)]


def _round(step):
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= step * (1 - 1e-9))
