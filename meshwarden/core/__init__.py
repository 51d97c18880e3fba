"""What every service shares and needs no I/O: faults, documents, snapshots, secrets."""
