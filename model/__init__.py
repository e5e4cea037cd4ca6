"""The model: visual encoder, causal transformer, visual decoder, in single-device PyTorch."""
