"""What `up` waits for: questions that answer with what is missing, empty once it is there."""

from __future__ import annotations

from collections.abc import Callable

import httpx2

from meshwarden.cli import probes

Missing = Callable[[], str]


def answers_200(url: str) -> Missing:
    """Whether `url` answers 200; a service's `/readyz` says why it does not."""

    def missing() -> str:
        response = probes.fetch(url)
        if response is not None and response.status_code == 200:
            return ""
        told = f"{url} gave {_status(response)}, not 200"
        reasons = probes.json_object(response).get("reasons") if response is not None else None
        if not isinstance(reasons, dict) or not reasons:
            return told
        return f"{told}: " + "; ".join(f"{what}: {why}" for what, why in reasons.items())

    return missing


def clusters_are_healthy(admin: str) -> Missing:
    """Whether Envoy has looked at every cluster and found it healthy."""

    def missing() -> str:
        found = probes.clusters(admin)
        if not found:
            return f"{admin}/clusters gave no list of clusters"
        sick = {name: sorted(set(problems)) for name, problems in found.items() if problems}
        return "; ".join(f"cluster {name}: {', '.join(told)}" for name, told in sick.items())

    return missing


def gives_a_verdict(gateway: str) -> Missing:
    """Whether the authorizer is asked and answers: whatever it says, Envoy's own 503 it is not."""
    url = f"{gateway}/"

    def missing() -> str:
        response = probes.fetch(url)
        if response is not None and response.status_code != 503:
            return ""
        return f"{url} gave {_status(response)}, not an answer of the authorizer or the upstream"

    return missing


def _status(response: httpx2.Response | None) -> str:
    return "no answer" if response is None else str(response.status_code)
