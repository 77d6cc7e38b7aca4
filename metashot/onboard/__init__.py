"""`metashot init`: look at files of one's own, and describe them in params.yaml."""
