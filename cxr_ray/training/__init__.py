"""Losses, schedule, the loop, and its Ray Train wrapping."""
