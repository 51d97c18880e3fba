"""What happens when a part of the mesh fails, with real processes and the seconds it took."""
