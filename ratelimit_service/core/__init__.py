"""The rules of rate limiting, pure: no I/O, no clock, no randomness."""
