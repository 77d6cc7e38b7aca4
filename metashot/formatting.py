"""Formatting of numbers for people."""


def accuracy(mean: float, ci95: float) -> str:
    """Format an accuracy with its 95 % confidence interval: ``97.12 ± 0.31 %``."""
    return f"{100 * mean:.2f} ± {100 * ci95:.2f} %"


def duration(seconds: float) -> str:
    """Format a duration: ``41 s``, ``3 min 05 s``, ``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
