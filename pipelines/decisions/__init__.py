"""Decisions on what stays in the corpus: thresholds, duplicates, windows."""
