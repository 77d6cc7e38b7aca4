"""Files of other people: found, unpacked, divided, read, fetched."""
