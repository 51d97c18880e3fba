"""Whether the service is healthy as far as its configuration goes: a setting, as in the reference.

There a service without a valid configuration is healthy, and its requests end with an error, unless
HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED is on; and it does not start before a first configuration
was offered, good or bad, unless FORCE_START_WITHOUT_INITIAL_CONFIG is on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from meshwarden.adapters.configuration import Configuration
from ratelimit_service.core.model import Rules

Wanted = Literal["loaded", "with_domains", "not_needed"]


class ConfigurationHealth:
    """`wanted` and `starts_without` say what the settings health.configuration and
    configuration.starts_without do."""

    def __init__(
        self,
        configuration: Configuration[Rules],
        rules: Callable[[], Rules | None],
        *,
        wanted: Wanted,
        starts_without: bool,
    ) -> None:
        self._configuration = configuration
        self._rules = rules
        self._wanted = wanted
        self._starts_without = starts_without

    def unready_reason(self) -> str:
        """Why the service is not healthy; empty when it is."""
        if self._wanted == "not_needed":
            is_held_back = not (self._starts_without or self._configuration.was_offered)
            return "no configuration was offered yet" if is_held_back else ""
        rules = self._rules()
        if self._wanted == "with_domains" and rules is not None and not rules.domains:
            return "the configuration has no domain"
        return self._configuration.unready_reason()
