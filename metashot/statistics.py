"""What accuracies in episodes say of a model, and how surely."""

import numpy as np


def mean_and_interval(accuracy: np.ndarray) -> tuple[float, float]:
    """Mean and half width of its 95 % interval, ``1.96 s / sqrt(E)``, over the accuracies ``[E]``."""
    return float(accuracy.mean()), float(1.96 * accuracy.std(ddof=1) / np.sqrt(len(accuracy)))
