"""What was measured, compared and judged."""
