"""Who is calling, and may they: Envoy's external authorization API."""
