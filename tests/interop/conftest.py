"""Fixtures that the tests against other people's implementations share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.oidc_provider import OidcProvider, running_oidc_provider
from tests.support.tokens import ec_signer, rsa_signer


@pytest.fixture(scope="session")
def provider() -> Iterator[OidcProvider]:
    """One provider, signing with `ec_signer()` and `rsa_signer()`, for all tests that leave it as
    they find it.
    """
    with running_oidc_provider(ec_signer(), rsa_signer()) as running:
        yield running
