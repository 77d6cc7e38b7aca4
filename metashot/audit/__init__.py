"""Registered versions audited, traced back to their data, and reproduced."""
