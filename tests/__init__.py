"""Tests; how they are laid out stands in CONTRIBUTING.md."""
