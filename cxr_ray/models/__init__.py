"""Encoders, fusion and the classifier that holds them."""
