"""Videos: downloaded, cut into frames, and put in time with what is said."""
