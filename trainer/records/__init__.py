"""What a run writes down: metrics, progress, and every sample that was trained on."""
