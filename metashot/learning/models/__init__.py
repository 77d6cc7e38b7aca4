"""What predicts, and what a registered model carries: episodes, runtime, backbones, methods."""
