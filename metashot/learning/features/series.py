"""Series: what is told from them without training."""

NAMES = (
    *("series_statistics", "minirocket", "statistics_minirocket", "outline_statistics_minirocket"),
    *("outline", "identity"),
)
