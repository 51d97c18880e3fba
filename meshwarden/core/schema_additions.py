"""What the API server of a cluster is told of a model besides its JSON Schema.

A service writes, beside its models, a mapping from model to `Additions`: keywords of a structural
schema that are merged into the schema of the model. Here is how the common ones are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

Additions = Mapping[type[pydantic.BaseModel], Mapping[str, Any]]


def rule(expression: str, message: str, *, told: str = "") -> dict[str, str]:
    """One rule of `x-kubernetes-validations`: a CEL expression over `self`, and what is said where
    it is false. `told` is an expression that gives a message which names the value.
    """
    result = {"rule": expression, "message": message}
    return result | {"messageExpression": told} if told else result


def rules(*found: Mapping[str, str]) -> dict[str, Any]:
    """The keyword that holds them."""
    return {"x-kubernetes-validations": [dict(one) for one in found]}


def exactly_one(*fields: str) -> dict[str, str]:
    """The rule that just one of the fields is there, in the words of the models."""
    given = ", ".join(f"has(self.{field})" for field in fields)
    return rule(
        f"[{given}].exists_one(given, given)", f"exactly one of {', '.join(fields)} is needed"
    )


def none_of(
    words: tuple[str, ...], places: str, message: str, *, guard: str = ""
) -> dict[str, str]:
    """The rule that none of `words` is in `places`, a list or the keys of a mapping; `message` has
    `{}` where the word stands. `guard`: an expression that says whether `places` is there.
    """
    listed = "[" + ", ".join(f"'{word}'" for word in words) + "]"
    found = f"{listed}.filter(word, word in {places})"
    before, _, after = message.partition("{}")
    absent = f"!({guard}) || " if guard else ""
    return rule(
        f"{absent}!{listed}.exists(word, word in {places})",
        message.format(" | ".join(words)),
        told=f'"{before}" + {found}[0] + "{after}"',
    )
