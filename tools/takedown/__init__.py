"""Takedown: what is asked for is found in a corpus and taken out of it."""
