"""Training: exact mixtures, a deterministic plan, a reader of tars, and DeepSpeed around the model."""
