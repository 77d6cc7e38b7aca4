"""Prefect flows over the same DAG."""
