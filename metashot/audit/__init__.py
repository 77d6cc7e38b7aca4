"""Whether what MLflow shows holds: checks, the way back to the data, making a version again."""
