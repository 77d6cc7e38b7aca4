"""Sounds: what is told from them without training."""

NAMES = ("mfcc", "mfcc_statistics", "identity")
