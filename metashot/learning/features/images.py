"""Pictures: what is told from them without training."""

NAMES = ("hog", "hog_fine", "colours", "identity")
