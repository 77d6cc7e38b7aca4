"""Vectors of a sentence encoder: what is told from them without training."""

NAMES = ("identity",)
