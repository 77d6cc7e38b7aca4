"""What was made from what, as dvc.lock and git know it."""
