"""Structured logs: one event a line, JSON or text, with every credential masked on its way out.

Everything goes through here, also what libraries log through `logging`, so there is one place that
masks.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from meshwarden.adapters.settings import LogSettings
from meshwarden.adapters.structlog_alone import structlog
from meshwarden.core.secret import redacted, redacted_text

if TYPE_CHECKING:
    from structlog.typing import Processor


def mask(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The processor that masks credentials; the last one before the renderer."""
    return {redacted_text(name): redacted(value, name) for name, value in event.items()}


def configure(settings: LogSettings, service: str) -> None:
    """Send all logs of this process to standard output in the wanted form."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, mask, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    for noisy in ("watchfiles", "httpcore2", "httpx2", "asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(service=service)


def logger() -> Any:
    """The logger of this process."""
    return structlog.get_logger()
