"""What every service shares and touches the world: servers, files, stores, telemetry."""
