"""DeepSpeed around a model: steps, optimizer, placement, checkpoints, FLOPs, metrics and progress. Knows no task."""
