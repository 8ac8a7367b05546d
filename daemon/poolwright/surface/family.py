"""A family of Prometheus samples from rows of labels and numbers."""

from collections.abc import Iterable

from prometheus_client.core import Metric

Number = float | int | bool | None
Rows = Iterable[tuple[dict[str, str], Number]]

_UNITS = ("seconds", "bytes", "ratio", "watts", "cores")


def family(kind: str, name: str, text: str, rows: Rows, suffix: str = "") -> Metric:
    """A family with a sample for every row whose number is known; its unit is the name's end."""
    full = f"poolwright_{name}"
    unit = name.rpartition("_")[2]
    made = Metric(full, text, kind, unit if unit in _UNITS else "")
    for labels, value in rows:
        if value is not None:
            made.add_sample(full + suffix, labels, float(value))
    return made
