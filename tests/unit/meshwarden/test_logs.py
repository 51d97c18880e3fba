"""No credential leaves this process in a log line, whoever logs it and in whatever form."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import pytest

from meshwarden.adapters import logs
from meshwarden.adapters.settings import LogSettings
from meshwarden.core.secret import MASK, redacted, redacted_text

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJyaXRhIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
API_KEY = "mwk_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdE012345"
OPAQUE = "opaque-secret-0123"
SECRETS = (TOKEN, TOKEN.rpartition(".")[2], API_KEY, OPAQUE, "dXNlcjpwYXNz")


@dataclass
class Call:
    """A value that a renderer would write as its repr."""

    authorization: str


pytestmark = pytest.mark.usefixtures("logging_as_it_was")


def configure(**settings: str) -> None:
    """The real pipeline, for the service `tested`."""
    logs.configure(LogSettings.model_validate({"level": "debug", **settings}), "tested")


FIELDS: dict[str, Any] = {
    "text": f"token {TOKEN}, key {API_KEY}, Bearer {OPAQUE}, Basic dXNlcjpwYXNz",
    "encrypted": f"{TOKEN}.{OPAQUE}.{OPAQUE}",
    "part": TOKEN[:40],
    "joined": f"credential_{API_KEY}",
    "url": f"redis://user:p@{OPAQUE}@redis:6379/0 and https://{OPAQUE}@host/x",
    "authorization": OPAQUE,
    "Proxy-Authorization": OPAQUE,
    "cookie": f"session={OPAQUE}",
    "set-cookie": OPAQUE.encode(),
    "x-api-key": OPAQUE,
    "accessToken": OPAQUE,
    "_password": OPAQUE,
    "credentials": {"reader": OPAQUE},
    "api_keys": [OPAQUE, OPAQUE],
    "headers": {"Cookie": OPAQUE, "accept": "*/*", f"x-{TOKEN}": "1"},
    "metadata": (("authorization", OPAQUE), ("x-api-key", OPAQUE.encode())),
    "raw": f"Bearer {OPAQUE}".encode(),
    "error": ValueError(f"no such token {TOKEN}"),
    "members": {f"Bearer {OPAQUE}"},
    "call": Call(f"Bearer {OPAQUE}"),
    f"name-{TOKEN}": "as a name",
}


def log_everything() -> None:
    """All of `FIELDS`, and exceptions that name credentials, by structlog and by logging."""
    for logger in (logs.logger(), logs.logger().bind(authorization=OPAQUE)):
        logger.info("fields", **FIELDS)
        logger.error(f"in the event itself: Bearer {OPAQUE} {TOKEN}")
    library = logging.getLogger("a.library")
    library.info("called with %s and %r", TOKEN, {"x": f"Bearer {OPAQUE}"})
    try:
        raise ValueError(f"Basic dXNlcjpwYXNz {API_KEY}") from KeyError(TOKEN)
    except ValueError:
        logs.logger().error("failed", exc_info=True)
        library.exception("failed for %s", TOKEN)


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_credential_survives_the_pipeline(capsys: pytest.CaptureFixture[str], form: str):
    configure(format=form)
    log_everything()
    output = capsys.readouterr().out
    assert output.count("Traceback") == 2
    assert MASK in output
    assert [secret for secret in SECRETS if secret in output] == []


def test_a_json_line_is_one_object_that_keeps_what_is_no_secret(capsys: pytest.CaptureFixture[str]):
    configure()
    logs.logger().info(
        "decided", count=3, ratio=0.5, ok=True, none=None, policy="p", headers={"accept": "*/*"}
    )
    logging.getLogger("a.library").warning("hello %s", "you")
    decided, hello = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert decided.pop("timestamp").endswith("Z")
    assert decided == {
        "event": "decided",
        "service": "tested",
        "level": "info",
        "count": 3,
        "ratio": 0.5,
        "ok": True,
        "none": None,
        "policy": "p",
        "headers": {"accept": "*/*"},
    }
    assert (hello["event"], hello["level"], hello["service"]) == ("hello you", "warning", "tested")


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]):
    configure(level="warning")
    logs.logger().info("quiet")
    logging.getLogger("a.library").info("quiet")
    logs.logger().warning("loud")
    assert json.loads(capsys.readouterr().out)["event"] == "loud"


@pytest.mark.parametrize("name", ["remembered_tokens", "keys", "policy", "tokenized_by", "author"])
def test_a_name_that_holds_no_credential_keeps_its_value(name: str):
    value = 7 if name == "remembered_tokens" else "kept"
    assert redacted(value, name) == value


def test_an_ordinary_text_is_left_as_it_is():
    text = "GET /orders?x=1 by jwt:rita at http://127.0.0.1:10000/a@b, Bearerless, 3.14"
    assert redacted_text(text) == text
