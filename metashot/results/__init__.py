"""Results measured, compared and judged."""
