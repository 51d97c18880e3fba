"""Measurements: what the quickstart adds to a request, and what a decision costs. `make perf` runs
them.
"""
