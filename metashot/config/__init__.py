"""params.yaml: what may stand in it, reading, checking, editing, pinning."""
