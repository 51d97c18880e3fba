"""`make test-transport`: other people's clients against the main gRPC port on libnghttp2."""
