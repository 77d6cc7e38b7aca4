"""Texts: what is told from them without training."""

NAMES = ("tfidf",)
