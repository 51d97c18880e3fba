"""The access log: one JSON line a request on stdout, with who, by which rule, under which limit.

No credential may enter it. So: no request header that carries one, and of the path only what
stands before the query (`NQ`); `referer`, which holds another URL's query, is left out as well.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.access_loggers.stream import v3 as stream
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from meshwarden.adapters.envoy.local_replies import REPLIES
from meshwarden.adapters.envoy.typed import packed, struct

EXT_AUTHZ = "envoy.filters.http.ext_authz"
RATELIMIT = "envoy.filters.http.ratelimit"
"""Filters, under whose names their services' dynamic metadata stands."""
DECISION_MEMBERS = ("principal", "subject", "policy", "rule")
"""What the authorizer says about each decision in `CheckResponse.dynamic_metadata`."""
DECISION_REASON = f"metadata.filter_metadata['{EXT_AUTHZ}']['reason']"
"""In CEL."""
NOT_ENVOYS_OWN = "response.code_details in ['via_upstream', 'ext_authz_denied']"
MASKED = "[masked]"


def _reason() -> str:
    """Of an answer of Envoy's own the reason that its body names, else the decision's.

    In CEL; what can't be evaluated, as where there was no decision, is left out of the entry.
    """
    own = "".join(f"{reply.where} ? '{reply.reason}' : " for reply in REPLIES)
    return f"%CEL({NOT_ENVOYS_OWN} ? {DECISION_REASON} : {own}{DECISION_REASON})%"


FIELDS = {
    "time": "%START_TIME%",
    "request_id": "%REQUEST_HEADER(X-REQUEST-ID)%",
    "method": "%REQUEST_HEADER(:METHOD)%",
    "host": "%REQUEST_HEADER(:AUTHORITY)%",
    "path": "%PATH(NQ:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "grpc_status": "%GRPC_STATUS%",
    "duration_ms": "%DURATION%",
    "upstream_duration_ms": "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:ms)%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "user_agent": "%REQUEST_HEADER(USER-AGENT):256%",
    "trace": "%REQUEST_HEADER(TRACEPARENT):64%",
    "route": "%ROUTE_NAME%",
    "upstream": "%UPSTREAM_HOST%",
    "limit": "%RESPONSE_HEADER(X-RATELIMIT-LIMIT)%",
    "limit_remaining": "%RESPONSE_HEADER(X-RATELIMIT-REMAINING)%",
    "retry_after": "%RESPONSE_HEADER(RETRY-AFTER)%",
    # The rate-limit service answered; only where it is told to send dynamic metadata.
    "limit_domain": f"%DYNAMIC_METADATA({RATELIMIT}:domain)%",
    # The limit that decided; where the service is told to send its rule metadata.
    "limit_rule": f"%DYNAMIC_METADATA({RATELIMIT}:meshwarden:rule)%",
    "reason": _reason(),
    **{member: f"%DYNAMIC_METADATA({EXT_AUTHZ}:{member})%" for member in DECISION_MEMBERS},
}


def access_logs() -> list[accesslog.AccessLog]:
    """The log of every request, whatever its end.

    A path with a fragment is refused, but would be logged whole (`NQ` cuts queries alone; Envoy
    1.40, tried): such requests have a log of their own, which masks it.
    """
    masked = FIELDS | {"path": MASKED}
    return [_log(FIELDS, fragment=False), _log(masked, fragment=True)]


def _log(fields: dict[str, str], *, fragment: bool) -> accesslog.AccessLog:
    log = stream.StdoutAccessLog(
        log_format=core.SubstitutionFormatString(
            json_format=struct(dict(fields)),
            omit_empty_values=True,
        )
    )
    has_fragment = route.HeaderMatcher(
        name=":path",
        string_match=matcher.StringMatcher(contains="#"),
        treat_missing_header_as_empty=True,
        invert_match=not fragment,
    )
    return accesslog.AccessLog(
        name="envoy.access_loggers.stdout",
        filter=accesslog.AccessLogFilter(header_filter=accesslog.HeaderFilter(header=has_fragment)),
        typed_config=packed(log),
    )
