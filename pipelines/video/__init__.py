"""Videos: downloaded, split into frames, and synchronised with their text."""
