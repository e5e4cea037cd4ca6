"""Mixtures of sources: sizes and epochs, weights that satisfy demands, dry runs, and weights from losses."""
