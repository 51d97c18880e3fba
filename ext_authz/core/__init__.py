"""The rules of authorization, pure: no I/O, no clock, no randomness."""
