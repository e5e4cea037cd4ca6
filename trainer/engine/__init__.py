"""DeepSpeed around a model: steps, optimizer, placement, checkpoints, FLOPs, metrics, progress. Knows no task."""
