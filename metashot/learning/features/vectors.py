"""Vectors: what is told from them without training."""

NAMES = ("identity",)
