"""What a mesh is given: `files(IstioOptions(), facts)`, where `facts` is what a folder of policies
says.

Plain documents, built from options; what Envoy is told comes from `meshwarden.adapters.envoy`.
Talking to a cluster does not belong here.
"""

import meshwarden.adapters.envoy  # noqa: F401  before its modules: it silences envoy-data-plane
from meshwarden.adapters.istio.facts import LimitEntry, PolicyFacts
from meshwarden.adapters.istio.manifests import documents_by_file, files
from meshwarden.adapters.istio.mesh_config import mesh_config
from meshwarden.adapters.istio.options import IstioOptions

__all__ = ["IstioOptions", "LimitEntry", "PolicyFacts", "documents_by_file", "files", "mesh_config"]
