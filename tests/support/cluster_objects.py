"""Objects for the tests that run against a Kubernetes API server: namespaces, our kinds, Secrets."""

from __future__ import annotations

import base64
from typing import Any

import yaml

from meshwarden.adapters.istio.access import RESOURCES
from tests.house_rules import CHECKOUT
