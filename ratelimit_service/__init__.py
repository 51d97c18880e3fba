"""How often may they: Envoy's global rate limit API, as envoyproxy/ratelimit answers it."""
