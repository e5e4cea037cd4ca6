"""What stays: thresholds, duplicates, windows."""
