"""Input formats: one module each, all giving `Candidate`s."""
