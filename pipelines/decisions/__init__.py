"""Decisions on what stays in the corpus: features, thresholds, duplicates, splits, windows."""
