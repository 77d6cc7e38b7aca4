"""params.yaml: its schema, reading, checking, editing, and the digests that it pins."""
