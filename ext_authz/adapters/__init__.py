"""What connects the rules of authorization to Envoy, files and issuers."""
