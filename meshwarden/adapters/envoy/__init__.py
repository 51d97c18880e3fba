"""Envoy's bootstrap, from a handful of options: `to_yaml(bootstrap(EnvoyOptions()))`.

Everything is built with envoy-data-plane's typed messages, so a misspelt field is a type error here
and not a surprise at start. Running Envoy does not belong here; nor does Istio.
"""

from meshwarden.adapters.envoy.bootstrap import bootstrap, to_yaml
from meshwarden.adapters.envoy.options import EnvoyOptions

__all__ = ["EnvoyOptions", "bootstrap", "to_yaml"]
