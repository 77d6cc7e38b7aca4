"""Pictures: what is told from them without training."""

NAMES = ("hog", "colours", "identity")
