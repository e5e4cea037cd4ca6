"""Training: exact mixtures of sources, a deterministic plan, a reader of tars, and DeepSpeed around the model."""
