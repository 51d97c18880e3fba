"""DogStatsD's mogrifiers from the environment, where the reference has them.

Each is named in `statistics.dogstatsd.mogrifiers`; of each the variables
DOG_STATSD_MOGRIFIER_<NAME>_PATTERN, _NAME and _TAGS say the rest. What they do is
`core.statsd_lines`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshwarden.core.faults import Misconfigured, Problem
from ratelimit_service.core.statsd_lines import Mogrifier, parse_tags


def mogrifiers(names: Sequence[str], environment: Mapping[str, str]) -> list[Mogrifier]:
    """The mogrifiers of `names`, in their order. Raises `Misconfigured` for all that is missing."""
    problems: list[Problem] = []
    found = []
    for given in names:
        prefix = f"DOG_STATSD_MOGRIFIER_{given.upper()}_"
        pattern, name = (environment.get(prefix + word, "") for word in ("PATTERN", "NAME"))
        for word, value in (("PATTERN", pattern), ("NAME", name)):
            if not value:
                problems.append(Problem("", 0, f"{prefix}{word}: not set"))
        try:
            tags = parse_tags(environment.get(f"{prefix}TAGS", ""))
            if not all(tags) or not all(tags.values()):
                raise ValueError("a tag needs a name and a value")
        except ValueError as error:
            problems.append(Problem("", 0, f"{prefix}TAGS: {error}"))
        else:
            found.append(Mogrifier(pattern, name, tags))
    if problems:
        raise Misconfigured(problems)
    return found
