"""Metrics, intervals and sensitivity tests: pure functions on arrays."""
