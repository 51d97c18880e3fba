"""Tests against a real istiod, a real Kubernetes API server and real Envoys."""
