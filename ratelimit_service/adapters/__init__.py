"""What connects the rules of rate limiting to Envoy, files and stores."""
