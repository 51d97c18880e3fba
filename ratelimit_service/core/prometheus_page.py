"""A reading as Prometheus' text format, named as a mapping says.

Written here and not by prometheus-client, which ends every counter's name in `_total`: the
reference's don't. Counters at zero are left out, as in the reference, which never sends them.
Timings are observed in milliseconds, whatever the metric is called (the reference's default mapping
says seconds, and shows milliseconds). A summary has no quantiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ratelimit_service.core.name_mapping import Kind, NameMapping, Series
from ratelimit_service.core.reading import Reading, Timings

_Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Family:
    """The series of one metric: a number for each set of labels, or timings for each."""

    kind: Kind
    series: Series
    numbers: dict[_Labels, int] = field(default_factory=dict)
    timings: dict[_Labels, dict[int, int]] = field(default_factory=dict)


def prometheus_page(reading: Reading, mapping: NameMapping, *, suffix: str = "") -> str:
    """The page; `suffix` holds the tags, which a statsd name ends in.

    What two kinds of statistic call the same is shown for the first of them: counters, gauges,
    timings.
    """
    families: dict[str, _Family] = {}

    def family(name: str, kind: Kind) -> tuple[_Family, _Labels] | None:
        series = mapping.series(name + suffix, kind)
        if series is None:
            return None
        found = families.setdefault(series.name, _Family(kind, series))
        return (found, series.labels) if found.kind == kind else None

    for name, value in reading.counters.items():
        if value and (found := family(name, "counter")):
            numbers = found[0].numbers
            numbers[found[1]] = numbers.get(found[1], 0) + value
    for name, value in reading.gauges.items():
        if found := family(name, "gauge"):
            found[0].numbers[found[1]] = value
    for name, timings in reading.timings.items():
        if timings and (found := family(name, "observer")):
            sums = found[0].timings.setdefault(found[1], {})
            for milliseconds, count in timings.items():
                sums[milliseconds] = sums.get(milliseconds, 0) + count
    lines = [line for name in sorted(families) for line in _lines(name, families[name])]
    return "".join(f"{line}\n" for line in lines)


def _lines(name: str, family: _Family) -> Iterator[str]:
    kind: str = family.kind
    if kind == "observer":
        kind = "summary" if family.series.buckets is None else "histogram"
    told = family.series.help.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {name} {told}"
    yield f"# TYPE {name} {kind}"
    for labels, value in sorted(family.numbers.items()):
        yield f"{name}{_shown(labels)} {value}"
    for labels, timings in sorted(family.timings.items(), key=lambda item: item[0]):
        yield from _timing_lines(name, labels, timings, family.series.buckets)


def _timing_lines(
    name: str, labels: _Labels, timings: Timings, buckets: tuple[float, ...] | None
) -> Iterator[str]:
    total = sum(timings.values())
    for bound in buckets or ():
        within = sum(count for value, count in timings.items() if value <= bound)
        yield f"{name}_bucket{_shown((*labels, ('le', f'{bound:g}')))} {within}"
    if buckets is not None:
        yield f"{name}_bucket{_shown((*labels, ('le', '+Inf')))} {total}"
    yield f"{name}_sum{_shown(labels)} {_sum(timings)}"
    yield f"{name}_count{_shown(labels)} {total}"


def _sum(timings: Mapping[int, int]) -> int:
    return sum(milliseconds * count for milliseconds, count in timings.items())


def _shown(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
