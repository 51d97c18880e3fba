"""`make perf`: run all measurements and write a dated result, as JSON and as a page, into
`perf/results/`.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from perf import decisions, gateway
from perf.result import RESULTS, described


def main() -> int:
    """Measure, write, and say where; 1 when a threshold does not hold."""
    now = datetime.now(UTC)
    result = described({"decisions": decisions.measure(), "gateway": gateway.measure()})
    RESULTS.mkdir(exist_ok=True)
    name = RESULTS / f"{now:%Y-%m-%dT%H%M%SZ}"
    name.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    page = _page(result)
    name.with_suffix(".md").write_text(page)
    print(page)
    print(f"written: {name}.json, {name}.md")
    return 0 if result["gateway"]["thresholds_hold"] else 1


def _page(result: dict[str, Any]) -> str:
    measured = result["gateway"]
    lines = [
        f"# Measured {result['date']}",
        "",
        f"Machine: {result['machine']}. Versions: {result['versions']}.",
        "",
        f"## Through Envoy: {measured['rate_a_second']} pairs of requests a second, "
        f"{measured['seconds']} s, warm token",
        "",
        f"Thresholds (p95 added < 10 ms, p95 < 200 ms, every answer 200): "
        f"{'hold' if measured['thresholds_hold'] else 'DO NOT HOLD'}.",
        "",
        "| milliseconds | median | p95 | p99 | max |",
        "|---|---|---|---|---|",
    ]
    for name, values in measured["milliseconds"].items():
        shown = (f"{values[key]:.2f}" for key in ("med", "p(95)", "p(99)", "max"))
        lines.append(f"| {name} | {' | '.join(shown)} |")
    lines += ["", "| process | CPU, us a request |", "|---|---|"]
    lines += [f"| {name} | {spent} |" for name, spent in measured["cpu_us_a_request"].items()]
    lines += ["", "## One decision, no transport (CPU, us)", "", "| case | min | median | max |"]
    lines.append("|---|---|---|---|")
    for case, spent in result["decisions"].items():
        lines.append(f"| {case} | {spent['min_us']} | {spent['median_us']} | {spent['max_us']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
