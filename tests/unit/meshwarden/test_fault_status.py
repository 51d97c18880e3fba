"""Every fault has a status of its own in gRPC and in HTTP."""

from __future__ import annotations

import grpc

from meshwarden.adapters.fault_status import grpc_status, http_status
from meshwarden.core.faults import Fault, InvalidInput, Misconfigured, Problem, Unavailable


def kinds_of(kind: type[Fault]) -> set[type[Fault]]:
    """All subclasses, of any depth."""
    return {kind}.union(*(kinds_of(inner) for inner in kind.__subclasses__())) - {Fault}


def test_the_table_is_total_over_all_faults():
    """A fault that is added without a status would be INTERNAL, which stands for our own bugs."""
    kinds = kinds_of(Fault)
    assert {InvalidInput, Unavailable, Misconfigured} <= kinds
    for kind in kinds:
        assert grpc_status(kind("x")) is not grpc.StatusCode.INTERNAL
    assert grpc_status(Fault("x")) is grpc.StatusCode.INTERNAL
    assert http_status(Fault("x")) == 500


def test_each_kind_has_the_status_that_its_caller_can_act_on():
    assert (grpc_status(InvalidInput("x")), http_status(InvalidInput("x"))) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        400,
    )
    assert (grpc_status(Unavailable("x")), http_status(Unavailable("x"))) == (
        grpc.StatusCode.UNAVAILABLE,
        503,
    )
    assert (grpc_status(Misconfigured("x")), http_status(Misconfigured("x"))) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        500,
    )


def test_a_fault_tells_all_its_problems_in_the_order_of_files_and_lines():
    fault = InvalidInput(
        [Problem("b", 2, "two"), Problem("a", 0, "nowhere"), Problem("b", 1, "one", "do this")]
    )
    assert str(fault).splitlines() == ["a: nowhere", "b:1: one (do this)", "b:2: two"]
    assert str(Misconfigured("just this")) == "just this"
    assert Unavailable("x", retryable=False).retryable is False
