"""What runs for minutes: fuzzing that is led by coverage, and a million tokens."""
