"""Envoy's bootstrap, from a handful of options: `to_yaml(bootstrap(EnvoyOptions()))`.

Everything is built with envoy-data-plane's typed messages, so a misspelt field is a type error here
and not a surprise at start. Running Envoy does not belong here; nor does Istio.
"""

import warnings

from pydantic import PydanticDeprecatedSince212

with warnings.catch_warnings():
    # envoy-data-plane 2.2 declares a validator in a form that pydantic 2.12 deprecates: not ours.
    warnings.simplefilter("ignore", PydanticDeprecatedSince212)
    from meshwarden.adapters.envoy.bootstrap import bootstrap, to_yaml
    from meshwarden.adapters.envoy.options import EnvoyOptions
    from meshwarden.adapters.envoy.services_tls import secrets

__all__ = ["EnvoyOptions", "bootstrap", "secrets", "to_yaml"]
