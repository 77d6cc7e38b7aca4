"""Meta-training and evaluation on torch; no params.yaml, DVC, MLflow or terminal."""
