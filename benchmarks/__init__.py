"""Speed, as ratios between two ways of doing the same work in the same run."""
