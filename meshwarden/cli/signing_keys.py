"""`meshwarden keys signing FILE`: makes and rotates the keys that sign identity tokens.

The file holds private keys and is shared by all replicas of ext_authz, which see a change within a
second. A new key is published at once and signs only after the overlap, when everybody who keeps
our public keys has fetched them anew; an old one stays published until its last token has expired.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric import ec

from ext_authz.core.identity_token import parse_signing_keys
from ext_authz.core.jwk import SIGNS_FROM, private_jwk
from meshwarden.cli.arguments import seconds
from meshwarden.cli.key_file import read
from meshwarden.cli.output import AsJson, print_json, print_line
from meshwarden.cli.state_folder import write_private

TOKEN_SECONDS_AT_MOST = 3600


def signing(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Private JWKS; made if missing.")],
    overlap: Annotated[
        float,
        typer.Option(parser=seconds, metavar="SECONDS", help="Published so long before it signs."),
    ] = 600,
    as_json: AsJson = False,
) -> None:
    """Make the keys that sign identity tokens, or add a new one and drop those that are over.

    [bold]Example:[/bold] meshwarden keys signing /etc/meshwarden/signing.json

    Run it as often as keys are to be changed: once a month, say.
    """
    now = time.time()
    known = _known(file) if file.exists() else []
    kept = [jwk for jwk in known if not _is_over(jwk, known, now)]
    new = private_jwk(ec.generate_private_key(ec.SECP256R1()), now + overlap if known else 0)
    write_private(file, json.dumps({"keys": [*kept, new]}, indent=2) + "\n")
    dropped = [jwk["kid"] for jwk in known if jwk not in kept]
    if as_json:
        signs_from = new[SIGNS_FROM]
        print_json({"added": new["kid"], SIGNS_FROM: signs_from, "dropped": dropped})
    else:
        when = f"signs in {overlap:.0f} s" if known else "signs at once"
        print_line(f"added {new['kid']}, which {when}; dropped {len(dropped)}")


def _known(file: Path) -> list[dict[str, Any]]:
    """The keys that are there. Raises `InvalidInput` for a file that holds something else."""
    content = read(file)
    parse_signing_keys(str(file), content, "")
    keys: list[dict[str, Any]] = json.loads(content)["keys"]
    return keys


def _is_over(jwk: dict[str, Any], known: list[dict[str, Any]], now: float) -> bool:
    """Whether another key signs since so long that no token of this one is left."""
    begins = jwk.get(SIGNS_FROM, 0)
    later = [other[SIGNS_FROM] for other in known if other.get(SIGNS_FROM, 0) > begins]
    return any(signs_from + TOKEN_SECONDS_AT_MOST <= now for signs_from in later)
