"""Redis in every form that the services can reach, while it fails; `make test-stores`."""
