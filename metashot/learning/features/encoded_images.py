"""Vectors of an encoder of pictures: what is told from them without training."""

NAMES = ("identity",)
