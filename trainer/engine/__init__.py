"""DeepSpeed around a model: steps, optimizer, placement, checkpoints, FLOPs. Knows no task."""
