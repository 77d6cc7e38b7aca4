"""`metashot init`: inspects the user's own files, and describes them in params.yaml."""
