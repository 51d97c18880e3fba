"""What Envoy answers by itself, as RFC 9457 problem documents with a stable `reason`.

An in-band denial is not Envoy's own: it brings its problem document, and the first mapper lets it
pass untouched, as it does the replies to gRPC requests, whose body becomes the `grpc-message`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel import v3 as cel
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm

from meshwarden.adapters.envoy.typed import header, packed, struct

PROBLEM_JSON = "application/problem+json"
IN_BAND_DENIAL = "response.code_details == 'ext_authz_denied'"
_CONTENT_TYPE = "request.headers['content-type']"
GRPC_REQUEST = (
    f"({_CONTENT_TYPE} == 'application/grpc' || {_CONTENT_TYPE}.startsWith('application/grpc+'))"
)
AUTHORIZER_FAILED = "response.code_details.startsWith('ext_authz')"


class Reply(NamedTuple):
    """When Envoy's own answer has `status` (and `condition`, in CEL, holds), what it says."""

    status: HTTPStatus
    reason: str
    detail: str
    condition: str = ""

    @property
    def where(self) -> str:
        """When it is sent, in CEL."""
        return " && ".join(filter(None, [f"response.code == {self.status}", self.condition]))


REPLIES = (
    Reply(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "authorizer_unavailable",
        "The authorization service did not answer in time; try again later.",
        AUTHORIZER_FAILED,
    ),
    Reply(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "authorizer_invalid_answer",
        "The authorization service gave an answer that can't be used.",
        AUTHORIZER_FAILED,
    ),
    Reply(HTTPStatus.TOO_MANY_REQUESTS, "over_limit", "Too many requests; try again later."),
    Reply(HTTPStatus.BAD_REQUEST, "bad_request", "The request is not acceptable as it was sent."),
    Reply(
        HTTPStatus.FORBIDDEN,
        "upgrade_not_offered",
        "The connection can't be upgraded to another protocol here.",
        "response.code_details == 'upgrade_failed'",
    ),
    Reply(HTTPStatus.NOT_FOUND, "no_route", "Nothing is served here."),
    Reply(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", "The request took too long to arrive."),
    Reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large", "The request is too large."),
    Reply(HTTPStatus.UPGRADE_REQUIRED, "upgrade_required", "HTTP/1.1 or HTTP/2 is required."),
    Reply(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers_too_large",
        "The request's headers are too many or too large.",
    ),
    Reply(HTTPStatus.INTERNAL_SERVER_ERROR, "gateway_error", "The gateway failed."),
    Reply(
        HTTPStatus.NOT_IMPLEMENTED,
        "transfer_encoding_unknown",
        "No transfer encoding but chunked is understood.",
    ),
    Reply(HTTPStatus.BAD_GATEWAY, "upstream_error", "The service's answer can't be used."),
    Reply(HTTPStatus.SERVICE_UNAVAILABLE, "upstream_unavailable", "The service can't be reached."),
    Reply(HTTPStatus.GATEWAY_TIMEOUT, "upstream_timeout", "The service did not answer in time."),
)
"""The first that fits is sent."""


def local_replies(*, adds_retry_after: bool = False) -> hcm.LocalReplyConfig:
    """Problem documents for Envoy's own answers, in-band denials untouched.

    `adds_retry_after`: where the rate-limit filter can't be told to (`newer_fields.py`), 429 gets
    the time to the descriptor's reset from its `x-ratelimit-reset`.
    """
    untouched = hcm.ResponseMapper(filter=_where(f"{IN_BAND_DENIAL} || {GRPC_REQUEST}"))
    mappers = [_mapper(reply) for reply in REPLIES]
    if adds_retry_after:
        for reply, mapper in zip(REPLIES, mappers, strict=True):
            if reply.status is HTTPStatus.TOO_MANY_REQUESTS:
                mapper.headers_to_add = [header("retry-after", "%RESP(x-ratelimit-reset)%")]
    return hcm.LocalReplyConfig(mappers=[untouched, *mappers])


def _mapper(reply: Reply) -> hcm.ResponseMapper:
    problem = {
        "type": "about:blank",
        "title": reply.status.phrase,
        "status": reply.status.value,
        "detail": reply.detail,
        "reason": reply.reason,
    }
    return hcm.ResponseMapper(
        filter=_where(reply.where),
        body_format_override=core.SubstitutionFormatString(
            json_format=struct(problem), content_type=PROBLEM_JSON
        ),
    )


def _where(expression: str) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(
        extension_filter=accesslog.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=packed(cel.ExpressionFilter(expression=expression)),
        )
    )
