"""From tars to micro-batches: shards, images, sequences, streams, and what was consumed. Takes no config."""
